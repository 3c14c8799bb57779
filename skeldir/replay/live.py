"""What is under way: in the recording, and in the replay."""

from __future__ import annotations

from dataclasses import dataclass

from services.policy.state import Hold
from shared.events.prices import Prices
from skeldir.replay.recording import Decision, Ending
from skeldir.replay.tally import Kind


@dataclass(slots=True)
class Was:
    """A recorded allow whose end has not come. Money in nanocents."""

    began_ms: int
    amount: int
    cache_only: bool
    kind: Kind | None = None
    """How it is counted; None: it is not (yet), or it was decided before the period."""
    held: bool = False


@dataclass(slots=True)
class Live:
    """A reservation of the replay. `kind` as in `Was`; `prices`: what its call is charged by."""

    hold: Hold
    kind: Kind | None
    cache_only: bool
    was_cache_only: bool
    prices: Prices | None
    estimated: bool = False
    """What it costs is an estimate: its call was never made."""


@dataclass(slots=True)
class Waiting:
    """A task that has to wait in the replay, and its recorded end where that has come meanwhile."""

    step: Decision
    ended: Ending | None = None
