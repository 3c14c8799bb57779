"""Signatures of webhooks (https://www.standardwebhooks.com, v1): HMAC-SHA256 by a secret that is stored nowhere.

Each webhook's secret is derived from one key (`SKELDIR_WEBHOOK_SECRET_KEY`) and the webhook's id: who has neither the
key nor was shown the secret cannot sign, whatever streams, tables or logs he reads.
"""

from __future__ import annotations

import base64
import hmac

PREFIX = "whsec_"


def secret_of(key: str, webhook_id: str) -> bytes:
    """The 32 bytes that sign for this webhook."""
    return hmac.digest(key.encode(), f"skeldir webhook {webhook_id}".encode(), "sha256")


def shown(secret: bytes) -> str:
    """The secret as its receiver gets it, and as the libraries of Standard Webhooks take it."""
    return PREFIX + base64.b64encode(secret).decode()


def headers(secret: bytes, message_id: str, timestamp_s: int, body: bytes) -> dict[str, str]:
    """The three headers of a message."""
    signed = f"{message_id}.{timestamp_s}.".encode() + body
    signature = base64.b64encode(hmac.digest(secret, signed, "sha256")).decode()
    return {
        "webhook-id": message_id,
        "webhook-timestamp": str(timestamp_s),
        "webhook-signature": f"v1,{signature}",
    }
