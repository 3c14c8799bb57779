"""Policy's state in the log server: how accounts, holds and parked tasks are written and read. No rule lives here."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from uuid import UUID

import orjson
from pydantic import BaseModel

from services.policy.state import Account, Breaker, Bucket, Hold, Meter, Probes, Take
from shared.events.decisions import BreakerState
from shared.events.tasks import TaskRef
from shared.provider_breakers import Model

PROBES = "probes"
"""The field of a partition's `policy` hash, beside its positions."""


def encode_account(account: Account) -> bytes:
    """The stored form of an account."""
    return orjson.dumps(account)


def decode_account(stored: bytes | None) -> Account:
    """The account, or a fresh one where nothing is stored."""
    if stored is None:
        return Account()
    raw = orjson.loads(stored)
    breaker = raw["breaker"]
    return Account(
        version=raw["version"],
        hours={window: Bucket(**bucket) for window, bucket in raw["hours"].items()},
        months={window: Bucket(**bucket) for window, bucket in raw["months"].items()},
        in_flight=raw["in_flight"],
        breaker=Breaker(**{**breaker, "state": BreakerState(breaker["state"])}),
        meters={
            quota_id: {start: Meter(**meter) for start, meter in windows.items()}
            for quota_id, windows in raw.get("meters", {}).items()
        },
    )


def encode_hold(hold: Hold) -> bytes:
    """The stored form of a reservation."""
    return orjson.dumps(hold, default=_model)


def decode_hold(stored: bytes) -> Hold:
    """The reservation."""
    raw: dict[str, Any] = orjson.loads(stored)
    for name in ("reservation_id", "tenant_id", "user_id"):
        raw[name] = UUID(raw[name])
    if raw.get("task") is not None:
        raw["task"] = TaskRef.model_validate(raw["task"])
    raw["takes"] = tuple(Take(**take) for take in raw.get("takes", ()))
    return Hold(**raw)


def encode_probes(probes: Mapping[Model, Probes]) -> bytes:
    """The stored form of what a partition has sent through half-open breakers of models."""
    return orjson.dumps([[*model, one.version, one.count, one.since_ms] for model, one in probes.items()])


def decode_probes(stored: bytes | None) -> dict[Model, Probes]:
    """What the partition has sent, or nothing where nothing is stored."""
    rows = orjson.loads(stored) if stored else []
    return {(provider, model): Probes(*counted) for provider, model, *counted in rows}


def _model(value: Any) -> Any:
    if isinstance(value, BaseModel):
        return value.model_dump(mode="json")
    raise TypeError(f"{type(value).__name__} cannot be stored")
