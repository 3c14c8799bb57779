"""TLS to Redis and PostgreSQL, by what stands in their URLs alone: a server that cannot show its name is not spoken to.

The servers of the wheels are built without TLS, so a front ends it here, as a cloud's load balancer does. A PostgreSQL
of the machine's own (`POSTGRES_BIN`) ends it itself.
"""

from __future__ import annotations

import asyncio
import os
import ssl
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path

import asyncpg
import psycopg
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from psycopg.sql import SQL, Identifier, Literal
from redis.exceptions import RedisError

from shared.streams.connection import connect
from skeldir.embedded import EmbeddedPostgres, EmbeddedValkey
from skeldir.embedded.process import make_reachable, unprivileged_user
from tests.own_servers import Programs, installed
from tests.stack import eventually

# PostgreSQL's SSLRequest, and its yes.
SSL_REQUEST = (8).to_bytes(4, "big") + (80877103).to_bytes(4, "big")


def certify(folder: Path) -> Path:
    """Make `server.pem` (key and certificate of `localhost`, signed by itself); where it is."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")])
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(hours=1))
        .not_valid_after(now + timedelta(hours=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .sign(key, hashes.SHA256())
    )
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    file = folder / "server.pem"
    file.write_bytes(private + certificate.public_bytes(serialization.Encoding.PEM))
    return file


@asynccontextmanager
async def front(port: int, certificate: Path, *, asks_first: bool = False) -> AsyncIterator[int]:
    """A port that speaks TLS and passes on to `port`. `asks_first`: after PostgreSQL's question, not at once."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)

    async def pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError):
            while data := await reader.read(65536):
                writer.write(data)
                await writer.drain()
        writer.close()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError, asyncio.IncompleteReadError):
            if asks_first:
                if await reader.readexactly(8) != SSL_REQUEST:
                    writer.close()
                    return
                writer.write(b"S")
                await writer.start_tls(context)
            server_reader, server_writer = await asyncio.open_connection("127.0.0.1", port)
            await asyncio.gather(pump(reader, server_writer), pump(server_reader, writer))

    server = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=None if asks_first else context)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()


def look(url: str) -> None:
    """Connect as `skeldir migrate` does."""
    psycopg.connect(url, connect_timeout=30).close()


@pytest.fixture(scope="module")
def certificate(new_folder: Callable[[], Path]) -> Path:
    """Key and certificate of `localhost`."""
    return certify(new_folder())


async def test_rediss_checks_the_servers_name(valkey: EmbeddedValkey, certificate: Path) -> None:
    async with front(valkey.port, certificate) as port:
        plain = valkey.url("ledger").replace("redis://", "rediss://")
        url = plain.replace(f"127.0.0.1:{valkey.port}", f"localhost:{port}")
        trusting = connect(f"{url}?ssl_ca_certs={certificate}", client_name="tls")
        assert await trusting.ping()
        await trusting.aclose()
        other_name = plain.replace(f":{valkey.port}", f":{port}")
        for wrong in (url, f"{other_name}?ssl_ca_certs={certificate}"):
            refused = connect(wrong, client_name="tls")
            with pytest.raises(RedisError, match=r"(?i)certificate"):
                await refused.ping()
            await refused.aclose()


async def test_verify_full_checks_the_servers_name(
    postgres: EmbeddedPostgres, certificate: Path, new_folder: Callable[[], Path]
) -> None:
    stranger = certify(new_folder())
    plain = postgres.url("skeldir_ledger")
    real = int(plain.rsplit(":", 1)[1].split("/")[0])
    async with front(real, certificate, asks_first=True) as port:
        await only_by_name(plain, port, certificate, stranger)


@pytest.fixture
def own_server(certificate: Path, new_folder: Callable[[], Path]) -> Iterator[str]:
    """The ledger's URL of a PostgreSQL that is built with TLS, and has it on."""
    if "POSTGRES_BIN" not in os.environ:
        pytest.skip("POSTGRES_BIN names no PostgreSQL that is built with TLS")
    certificate.chmod(0o600)
    if unprivileged_user() >= 0:
        os.chown(certificate, unprivileged_user(), -1)
        make_reachable(certificate)
    with installed(Programs(None, Path(os.environ["POSTGRES_BIN"])), new_folder()) as servers:
        with psycopg.connect(servers.books("postgres"), autocommit=True) as superuser:
            for name, value in (("ssl_cert_file", str(certificate)), ("ssl_key_file", str(certificate)), ("ssl", "on")):
                superuser.execute(SQL("ALTER SYSTEM SET {} = {}").format(Identifier(name), Literal(value)))
            superuser.execute("SELECT pg_reload_conf()")
        plain = servers.books("skeldir_ledger")
        eventually(lambda: speaks_tls(plain), "it has read its settings")
        yield plain


def speaks_tls(url: str) -> bool:
    with suppress(psycopg.OperationalError):
        look(f"{url}{'&' if '?' in url else '?'}sslmode=require")
        return True
    return False


async def test_a_server_that_ends_it_itself_is_checked_as_well(
    own_server: str, certificate: Path, new_folder: Callable[[], Path]
) -> None:
    port = int(own_server.rsplit(":", 1)[1].split("/")[0])
    await only_by_name(own_server, port, certificate, certify(new_folder()))


async def only_by_name(plain: str, port: int, certificate: Path, stranger: Path) -> None:
    """Both drivers connect to `localhost`, and to no other name or issuer."""
    there = plain.rsplit("@", 1)[1].split("/")[0]
    for name, root, good in (
        ("localhost", certificate, True),
        ("127.0.0.1", certificate, False),
        ("localhost", stranger, False),
    ):
        url = plain.replace(there, f"{name}:{port}")
        url += f"{'&' if '?' in url else '?'}sslmode=verify-full&sslrootcert={root}"
        if good:
            connection = await asyncpg.connect(url, timeout=30)
            assert await connection.fetchval("SELECT current_user") == "skeldir_ledger"
            await connection.close()
            await asyncio.to_thread(look, url)
        else:
            with pytest.raises((ssl.SSLError, OSError)):
                await asyncpg.connect(url, timeout=30)
            with pytest.raises(psycopg.OperationalError, match="certificate"):
                await asyncio.to_thread(look, url)
