"""What all actors share: the log, the clock, the provider with its own account, and the plan's dice."""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from uuid import UUID

from services.policy.decide import Owner
from services.policy.provider_breakers.config import BreakerConfig
from services.policy.state import PolicyConfig
from shared.control_state import ControlState, evolve
from shared.events.control import parse_control
from shared.events.decisions import BreakerState
from shared.money import NANOCENTS_PER_CENT as CENT
from tests.simulation.log import Log

START_MS = 1_795_000_000_000
TENANTS = (UUID(int=1), UUID(int=2))
OWNERS = tuple(Owner(tenant, UUID(int=100 + n)) for n, tenant in enumerate((TENANTS[0], TENANTS[0], TENANTS[1])))

CONFIG = PolicyConfig(
    monthly_cap=14 * CENT,
    hourly_threshold=8 * CENT,
    max_in_flight=6,
    failure_threshold=2,
    open_ms=4000,
    half_open_probes=1,
    decision_ttl_ms=3000,
    timeout_ms=1000,
    default_max_output_tokens=64,
    unpriced_worst_case=None,
    provider_breakers=BreakerConfig(open_ms=800, probes=1, stub_too=True),
)
LEASE_MS = 600
CLAIM_IDLE_MS = 900
STALENESS_MS = 500
MAX_ATTEMPTS = 3


@dataclass(frozen=True, slots=True)
class ProviderCall:
    """A call as the provider's own account has it."""

    at_ms: int
    decision_id: UUID
    task_id: UUID
    owner: Owner
    model: str
    executor: str
    cost: int
    seen_control: str


@dataclass
class World:
    """One history in the making."""

    seed: int
    dice: random.Random = field(init=False)
    log: Log = field(default_factory=lambda: Log(START_MS))
    calls: list[ProviderCall] = field(default_factory=list)
    story: list[str] = field(default_factory=list)
    engaged: list[tuple[int, int | None, UUID | None]] = field(default_factory=list)
    """Kill switches: from when, until when (None: still), and for which tenant (None: all)."""
    breaker: list[tuple[str, int, BreakerState]] = field(default_factory=list)
    """How the breaker of the one model that there is stood: by which control entry, and from when."""
    faults: bool = True

    def __post_init__(self) -> None:
        self.dice = random.Random(self.seed)

    @property
    def now_ms(self) -> int:
        return self.log.now_ms

    def tell(self, who: str, what: str) -> None:
        """Add a line to the story that a failing seed prints."""
        self.story.append(f"{self.now_ms - START_MS:7} {who:11} {what}")

    def chance(self, probability: float) -> bool:
        return self.faults and self.dice.random() < probability


class ControlView:
    """A service's fold of the control stream, and when it was last sure to be at its end."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._read = 0
        self.state = ControlState()
        self.fresh_at_ms = -(10**12)

    def look(self) -> None:
        """Read to the end."""
        entries = self._world.log.control
        for entry_id, data in entries[self._read :]:
            self.state = evolve(self.state, entry_id, parse_control(data))
        self._read = len(entries)
        self.fresh_at_ms = self._world.now_ms

    @property
    def is_stale(self) -> bool:
        return self._world.now_ms - self.fresh_at_ms > STALENESS_MS
