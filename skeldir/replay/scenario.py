"""Under which limits: the recorded ones, or those of a file. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import orjson
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from services.policy.state import PolicyConfig
from shared.control_state import ControlState, evolve, order_of
from shared.events.bounds import BoundsSet, BoundsUnset
from shared.events.control import (
    ControlEvent,
    InvalidControl,
    LimitsSet,
    PriceSet,
    QuotaSet,
    QuotaUnset,
    Scope,
    first_problem,
    parse_control,
)
from shared.events.downgrades import DowngradeSet, DowngradeUnset
from shared.events.order import Reason
from shared.settings import Settings

# Of the settings these are what the deciders are given (`PolicyConfig.from_settings`).
SETTINGS = (
    "monthly_cap_cents", "hourly_shutoff_cents", "max_in_flight", "breaker_failure_threshold", "breaker_open_seconds",
    "breaker_half_open_probes", "decision_ttl_ms", "provider_timeout_ms", "default_max_output_tokens",
    "unpriced_worst_case_cents",
)  # fmt: skip
# Orders that say nothing about what may be spent, or that hold for a time only.
NO_LIMITS = ("key.", "attempt.", "dead_letter.", "shutoff.", "provider_breaker.", "partitions.")
# An entry id after all others, and always the same: a quota is known by the entry that first set it.
_AFTER_ALL_MS = 253_402_300_799_000
_LIMITS = (LimitsSet, QuotaSet, QuotaUnset, BoundsSet, BoundsUnset, DowngradeSet, DowngradeUnset)

Orders = Sequence[tuple[str, ControlEvent]]
"""The recorded orders, each with its entry id, in their order."""


class InvalidLimits(ValueError):
    """The file of limits cannot be used; the text says what to mend."""


class _Limit(BaseModel):
    model_config = ConfigDict(extra="allow")

    scope: Scope
    reason: Reason = "replay"


class LimitsFile(BaseModel):
    """What other limits hold. `settings` stand for those of the same names; `limits` and `orders` are in force all the
    time, over what operators had ordered; without `recorded_limits` what operators had set of limits is left out."""

    model_config = ConfigDict(extra="forbid")

    settings: dict[str, Any] = Field({}, description="Names as in docs/configuration.md, without `SKELDIR_`.")
    limits: list[_Limit] = Field([], description="As the control event `limits.set`.")
    orders: list[dict[str, Any]] = Field([], description="Control events: `price.set`, `kill_switch.engaged`, ...")
    recorded_limits: bool = True


@dataclass(frozen=True)
class Scenario:
    """The deciders' limits, and the orders that are in force whatever was recorded."""

    config: PolicyConfig
    overlay: tuple[ControlEvent, ...] = ()
    recorded_limits: bool = True

    @property
    def reprices(self) -> bool:
        """Whether calls cost something else than they did."""
        return any(isinstance(order, PriceSet) for order in self.overlay)


def recorded(settings: Settings) -> Scenario:
    """The limits of the recording: what operators had set, and the settings, which are no events: those of now."""
    return Scenario(PolicyConfig.from_settings(settings))


def parse(given: Any, settings: Settings) -> Scenario:
    """The scenario of a file. Raises InvalidLimits with one clear line."""
    try:
        file = LimitsFile.model_validate(given if given is not None else {})
    except ValidationError as error:
        raise InvalidLimits(first_problem(error)) from error
    if unknown := sorted(file.settings.keys() - set(SETTINGS)):
        raise InvalidLimits(f"settings: {', '.join(unknown)}: known are {', '.join(SETTINGS)}")
    try:
        config = PolicyConfig.from_settings(Settings.model_validate({**settings.model_dump(), **file.settings}))
    except ValidationError as error:
        raise InvalidLimits(f"settings: {first_problem(error)}") from error
    limits = [{"type": LimitsSet.event_type, **one.model_dump(mode="json", exclude_none=True)} for one in file.limits]
    return Scenario(config, tuple(map(_order, [*limits, *file.orders])), file.recorded_limits)


def _order(given: dict[str, Any]) -> ControlEvent:
    if str(given.get("type")).startswith(NO_LIMITS):
        raise InvalidLimits(f"orders: {given.get('type')} is no limit that could hold all the time")
    try:
        return parse_control(orjson.dumps({"reason": "replay", **given}))
    except (InvalidControl, TypeError) as error:
        raise InvalidLimits(f"orders: {given.get('type')}: {error}") from error


class Control:
    """What policy saw of the orders at a position, under a scenario. Asked in nearly rising order."""

    def __init__(self, orders: Iterable[tuple[str, ControlEvent]], scenario: Scenario) -> None:
        kept = [one for one in orders if scenario.recorded_limits or not isinstance(one[1], _LIMITS)]
        self._orders: Orders = [one for one in kept if not one[1].type.startswith(("key.", "attempt.", "dead_letter."))]
        self._overlay = scenario.overlay
        self._state, self._next = ControlState(), 0
        self._seen: ControlState | None = None

    def at(self, position: str) -> ControlState:
        """The fold up to this position, and the scenario's orders on it."""
        if self._seen is not None and self._seen.position == position:
            return self._seen
        wanted = order_of(position)
        if wanted < order_of(self._state.position):  # a writer that took over had not read as far
            self._state, self._next = ControlState(), 0
        while self._next < len(self._orders) and order_of(self._orders[self._next][0]) <= wanted:
            self._state = evolve(self._state, *self._orders[self._next])
            self._next += 1
        state = self._state
        for number, order in enumerate(self._overlay):
            state = evolve(state, f"{_AFTER_ALL_MS}-{number}", order)
        self._seen = replace(state, position=position)
        return self._seen
