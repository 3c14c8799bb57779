"""The circuit breaker of a model, across tenants (docs/breakers.md). It is decided elsewhere, from all outcomes, and
obeyed here. While it is half-open this partition lets some calls through as probes, and counts them.

A probe may be lost on its way (its task is blocked, or answered from the cache): after an open time the places are new.
So a partition sends at most the breaker's `probes` in each open time, and needs to know of no other partition.
"""

from __future__ import annotations

from collections.abc import Mapping

from services.policy.rules import Refusal
from services.policy.rules.breaker import Passage
from services.policy.state import Circumstances, Probes
from shared.events.decisions import BlockReason, BreakerState
from shared.events.tasks import Task
from shared.provider_breakers import Model, ProviderBreaker


def passage(sent: Mapping[Model, Probes], task: Task, now: Circumstances) -> Passage:
    """Whether a call of this model may go out now."""
    breaker = now.control.provider_breakers.get((task.provider, task.model))
    if breaker is None or breaker.state is BreakerState.CLOSED:
        return Passage.PASS
    if not now.config.provider_breakers.watches(task.provider):
        return Passage.PASS
    if breaker.state is BreakerState.OPEN:
        return Passage.REFUSE
    return Passage.PROBE if _sent(sent, task, breaker, now).count < breaker.probes else Passage.REFUSE


def refusal(task: Task, now: Circumstances) -> Refusal:
    """Why not, where the passage is refused."""
    breaker = now.control.provider_breakers[task.provider, task.model]
    seen = {"provider": task.provider, "model": task.model, "state": BreakerState(breaker.state).value}
    when = {"since_ms": breaker.since_ms, "until_ms": breaker.until_ms, "reason": breaker.reason}
    return Refusal(BlockReason.PROVIDER_BREAKER_OPEN, {**seen, **when})


def probing(sent: Mapping[Model, Probes], task: Task, now: Circumstances) -> dict[Model, Probes]:
    """One more probe is out. What was counted for breakers that have gone on since is forgotten."""
    breakers = now.control.provider_breakers
    kept = {model: one for model, one in sent.items() if model in breakers and breakers[model].version == one.version}
    model = (task.provider, task.model)
    before = _sent(sent, task, breakers[model], now)
    return {**kept, model: Probes(before.version, before.count + 1, before.since_ms)}


def _sent(sent: Mapping[Model, Probes], task: Task, breaker: ProviderBreaker, now: Circumstances) -> Probes:
    found = sent.get((task.provider, task.model))
    if found is None or found.version != breaker.version:
        return Probes(breaker.version, 0, now.now_ms)
    over = now.now_ms >= found.since_ms + now.config.provider_breakers.open_ms
    return Probes(breaker.version, 0, now.now_ms) if over else found
