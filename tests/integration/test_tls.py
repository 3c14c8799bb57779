"""TLS to Redis and PostgreSQL, by what stands in their URLs alone: a server that cannot show its name is not spoken to.

The servers of the wheels are built without TLS, so a front ends it here, as a cloud's load balancer does.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator, Callable
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
from redis.exceptions import RedisError

from shared.streams.connection import connect
from skeldir.embedded import EmbeddedPostgres, EmbeddedValkey

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
    psycopg.connect(url, connect_timeout=5).close()


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
        other_name = plain.replace(str(valkey.port), str(port))
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
        for name, root, good in (
            ("localhost", certificate, True),
            ("127.0.0.1", certificate, False),
            ("localhost", stranger, False),
        ):
            url = plain.replace(f"127.0.0.1:{real}", f"{name}:{port}")
            url += f"{'&' if '?' in url else '?'}sslmode=verify-full&sslrootcert={root}"
            if good:
                connection = await asyncpg.connect(url, timeout=5)
                assert await connection.fetchval("SELECT current_user") == "skeldir_ledger"
                await connection.close()
                await asyncio.to_thread(look, url)
            else:
                with pytest.raises((ssl.SSLError, OSError)):
                    await asyncpg.connect(url, timeout=5)
                with pytest.raises(psycopg.OperationalError, match="certificate"):
                    await asyncio.to_thread(look, url)
