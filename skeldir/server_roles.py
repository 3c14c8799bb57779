"""Who the services are to the two servers: the roles of `deploy/redis/users.acl` and `deploy/postgres/roles.sql`."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

DEPLOY = Path(__file__).resolve().parents[1] / "deploy"
ACL_TEMPLATE = DEPLOY / "redis" / "users.acl"
ROLES_SQL = DEPLOY / "postgres" / "roles.sql"
LOG_ROLES = ("admin", "gateway", "policy", "executor", "ledger", "producer", "operator")
LOGIN_ROLES = ("skeldir_owner", "app_user", "skeldir_ledger")


def users_acl(passwords: Mapping[str, str]) -> str:
    """The log server's users, with these passwords, as it reads them from a file."""
    lines = [line for line in ACL_TEMPLATE.read_text().splitlines() if line.startswith("user ")]
    return re.sub(r">\{(\w+)\}", lambda name: f">{passwords[name[1]]}", "\n".join(lines) + "\n")
