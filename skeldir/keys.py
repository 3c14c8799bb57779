"""API keys: made here, published by their hash."""

from __future__ import annotations

import hashlib
import secrets
from datetime import datetime
from uuid import UUID

from redis.asyncio import Redis

from shared.events.control import KeyCreated
from shared.partitions import CONTROL


def sha256_of(secret: str) -> str:
    """What is stored of a key."""
    return hashlib.sha256(secret.encode()).hexdigest()


def new_secret() -> str:
    """A key: 256 random bits."""
    return f"sk-skeldir-{secrets.token_urlsafe(32)}"


async def publish_key(
    redis: Redis,
    secret: str,
    tenant_id: UUID,
    user_id: UUID | None,
    role: str,
    *,
    actor: str,
    until: datetime | None = None,
) -> str:
    """Make a key known to every gateway; its id. The secret itself goes nowhere."""
    digest = sha256_of(secret)
    key_id = f"key_{digest[:12]}"
    event = KeyCreated.model_validate(
        {
            "key_id": key_id,
            "secret_sha256": digest,
            "tenant_id": tenant_id,
            "user_id": user_id,
            "role": role,
            "actor": actor,
            "until": until,
        }
    )
    await redis.xadd(CONTROL, {"data": event.model_dump_json(exclude_none=True)})
    return key_id
