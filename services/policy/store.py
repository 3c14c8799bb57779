"""Policy's state in the log server: how accounts, holds and parked tasks are written and read. No rule lives here."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec
from pydantic import BaseModel

from services.policy.state import Account, Hold, Probes
from shared.events.tasks import TaskRef
from shared.provider_breakers import Model

PROBES = "probes"
"""The field of a partition's `policy` hash, beside its positions."""


def encode_account(account: Account) -> bytes:
    """The stored form of an account."""
    return _encoder.encode(account)


def decode_account(stored: bytes | None) -> Account:
    """The account, or a fresh one where nothing is stored. Raises msgspec.ValidationError."""
    return Account() if stored is None else _accounts.decode(stored)


def encode_hold(hold: Hold) -> bytes:
    """The stored form of a reservation."""
    return _encoder.encode(hold)


def decode_hold(stored: bytes) -> Hold:
    """The reservation. Raises msgspec.ValidationError."""
    return _holds.decode(stored)


def encode_probes(probes: Mapping[Model, Probes]) -> bytes:
    """The stored form of what a partition has sent through half-open breakers of models."""
    return _encoder.encode([[*model, one.version, one.count, one.since_ms] for model, one in probes.items()])


def decode_probes(stored: bytes | None) -> dict[Model, Probes]:
    """What the partition has sent, or nothing where nothing is stored."""
    rows = msgspec.json.decode(stored) if stored else []
    return {(provider, model): Probes(*counted) for provider, model, *counted in rows}


def _to_store(value: Any) -> Any:
    if isinstance(value, BaseModel):
        return value.model_dump(mode="json")
    raise NotImplementedError(f"{type(value).__name__} cannot be stored")


def _stored(known: type, value: Any) -> Any:
    if issubclass(known, TaskRef):
        return known.model_validate(value)
    raise NotImplementedError(f"{known.__name__} is not stored")


_encoder = msgspec.json.Encoder(enc_hook=_to_store)
_accounts = msgspec.json.Decoder(Account)
_holds = msgspec.json.Decoder(Hold, dec_hook=_stored)
