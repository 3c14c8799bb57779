"""Which other models may answer in place of the one that was asked for (`SKELDIR_FALLBACKS`), each at its own price.

It refuses nothing. One that is stopped by a switch or a breaker, or that has no price, is left out here; the executor
looks at switches and breakers again right before each call.
"""

from __future__ import annotations

from collections.abc import Sequence

from msgspec import Struct
from msgspec.structs import replace

from services.policy.meters import of_tenant
from services.policy.rules import Request
from services.policy.rules.breaker import Passage
from services.policy.rules.provider_breaker import passage
from services.policy.state import Circumstances
from shared.events.decisions import Alternative, BlockReason, PassedOver
from shared.events.tasks import Task, moved_to
from shared.pricing import Quote, Refused, Terms, quote
from shared.routing import alternatives_to

# Refused so, a model cannot be called at all, and its first alternative takes its place.
UNAVAILABLE = frozenset({BlockReason.UNPRICED, BlockReason.UNKNOWN_PROVIDER})


class Option(Struct, frozen=True):
    """A model that may be called, and what its call may cost."""

    task: Task
    price: Quote

    @property
    def alternative(self) -> Alternative:
        """As the decision names it."""
        return Alternative(
            provider=self.task.provider,
            model=self.task.model,
            prices=self.price.prices,
            max_output_tokens=self.price.max_output_tokens,
            amount=self.price.amount,
        )


def options(request: Request, terms: Terms, now: Circumstances) -> list[Option]:
    """Those that could be called now, in the operator's order.

    An embedding of another model is another thing, and not every provider has the Responses API.
    """
    task = request.task
    found: list[Option] = []
    if task.operation == "embeddings" or not now.config.fallbacks:
        return found
    for named in alternatives_to(task.provider, task.model, now.config.fallbacks):
        moved = moved_to(task, named, request.tenant_id, request.user_id)
        if task.operation == "responses" and moved.provider != task.provider:
            continue
        if now.control.switch_for(request.tenant_id, request.user_id, moved, now.now_ms) is not None:
            continue
        # A half-open breaker's probes are for those who ask for its model.
        if passage({}, moved, now) is not Passage.PASS:
            continue
        try:
            found.append(Option(moved, quote(moved, terms)))
        except Refused:
            continue
    return found


def beside(choice: Task, others: Sequence[Option], request: Request, now: Circumstances) -> tuple[Option, ...]:
    """Those that count against no quota but the choice's own: what is reserved for it then holds for them, too."""
    if not others:
        return ()
    quotas = of_tenant(request.tenant_id, now)

    def bounding(task: Task) -> set[str]:
        return {one.quota_id for one in quotas.bounding(request.user_id, task)}

    reserved = bounding(choice)
    return tuple(one for one in others if bounding(one.task) <= reserved)


def covering(price: Quote, others: Sequence[Option]) -> Quote:
    """What is reserved where one of several may be called, whichever: the most that any of them can cost."""
    if not others:
        return price
    lengths = [one.max_output_tokens or 0 for one in (price, *(other.price for other in others))]
    amount = max([price.amount, *(other.price.amount for other in others)])
    return replace(price, amount=amount, max_output_tokens=max(lengths) or None)


def passed_over(task: Task, reason: BlockReason) -> PassedOver:
    """What an event says of the model that could not be the choice."""
    return PassedOver(provider=task.provider, model=task.model, reason=reason)
