"""`secrets`: what a new system's servers and services have to know of each other, made once."""

from __future__ import annotations

import secrets as random
from pathlib import Path
from typing import Annotated

import typer

from services.ledger.chain.seal import new_key, public_pem, read_private
from shared.texts.master_key import new_master_key
from skeldir.cli.context import CommandError, out
from skeldir.server_roles import LOG_ROLES, LOGIN_ROLES, users_acl

SERVICES = ("gateway", "policy", "executor", "ledger")


def secrets(
    folder: Annotated[Path, typer.Argument(help="Where they go: it must not exist.")],
    redis_host: Annotated[str, typer.Option(help="Host and port of the log server.")] = "valkey:6379",
    postgres_host: Annotated[str, typer.Option(help="Host and port of the database.")] = "postgres:5432",
    database: Annotated[str, typer.Option(help="The database's name.")] = "skeldir",
) -> None:
    """Passwords for every role, and each service's share of them in a folder of its own (`SKELDIR_SECRETS_DIR`)."""
    if folder.exists():
        raise CommandError(f"{folder} exists: these would not be those that its servers know")
    log = {role: random.token_hex(24) for role in LOG_ROLES}
    books = {role: random.token_hex(24) for role in ("postgres", *LOGIN_ROLES)}

    def redis_url(role: str) -> str:
        return f"redis://{role}:{log[role]}@{redis_host}/0"

    def postgres_url(role: str) -> str:
        return f"postgresql://{role}:{books[role]}@{postgres_host}/{database}"

    webhooks = random.token_urlsafe(32)
    seal, master = new_key(), new_master_key()
    try:
        folder.mkdir(parents=True, mode=0o700)
        for service in SERVICES:
            _write(folder / service / "SKELDIR_REDIS_URL", redis_url(service))
        for service, role in (("gateway", "app_user"), ("ledger", "skeldir_ledger")):
            _write(folder / service / "SKELDIR_DATABASE_URL", postgres_url(role))
            _write(folder / service / "SKELDIR_WEBHOOK_SECRET_KEY", webhooks)
            _write(folder / service / "master-key", master)
        _write(folder / "ledger" / "seal-key.pem", seal)
        _write(folder / "migrate" / "SKELDIR_ADMIN_DATABASE_URL", postgres_url("skeldir_owner"))
        _write(folder / "archive" / "SKELDIR_ADMIN_DATABASE_URL", postgres_url("skeldir_owner"))
        _write(folder / "operator" / "SKELDIR_REDIS_URL", redis_url("operator"))
        _write(folder / "operator" / "SKELDIR_DATABASE_URL", postgres_url("app_user"))
        _write(folder / "restore" / "SKELDIR_REDIS_URL", redis_url("admin"))
        _write(folder / "restore" / "SKELDIR_ADMIN_DATABASE_URL", postgres_url("skeldir_ledger"))
        _write(folder / "producer" / "SKELDIR_REDIS_URL", redis_url("producer"))
        _write(folder / "valkey" / "users.acl", users_acl(log))
        _write(folder / "postgres" / "password", books["postgres"])
        _write(folder / "postgres" / "passwords.sql", _passwords(books))
        _write(folder / "grafana" / "app_user", books["app_user"])
        _write(folder / "grafana" / "admin", random.token_urlsafe(18))
        _write(folder / "seal-key.pub", public_pem(read_private(folder / "ledger" / "seal-key.pem").public_key()))
    except OSError as error:
        raise CommandError(f"{folder} cannot be written: {error}") from error
    out.print(f"made in {folder}; keep the master key and the seal's key where neither server is", soft_wrap=True)


def _passwords(books: dict[str, str]) -> str:
    return "".join(f"ALTER ROLE {role} PASSWORD '{books[role]}';\n" for role in LOGIN_ROLES)


def _write(file: Path, text: str) -> None:
    """Readable by whoever gets to it: in a container that is another user, who is given this folder and no other."""
    file.parent.mkdir(exist_ok=True, mode=0o755)
    file.write_text(text)
    file.chmod(0o444)
