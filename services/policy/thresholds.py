"""Warnings before a limit is reached: one for each threshold that a settlement has crossed, once a window."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from services.policy import budget, meters
from services.policy.state import NO_MONEY, Account, Book, Circumstances, Hold, Meter
from shared.events.decisions import LimitNeared

PERCENTS = (50, 80, 95)


def crossed(before: Book, after: Book, hold: Hold, now: Circumstances) -> list[LimitNeared]:
    """What was crossed when this reservation ended. What is spent only grows; what is reserved comes and goes."""
    found: list[LimitNeared] = []
    for scope, old, new, user_id in (
        ("user", before.user, after.user, hold.user_id),
        ("tenant", before.tenant, after.tenant, None),
    ):
        caps = (
            ("hour", hold.hour, budget.hourly_cap(now, hold.tenant_id, user_id)),
            ("month", hold.month, budget.monthly_cap(now, hold.tenant_id, user_id)),
        )
        for window, start, cap in caps:
            spent_before, spent = _spent(old, window, start), _spent(new, window, start)
            for percent in _percents(spent_before, spent, cap):
                found.append(
                    LimitNeared(
                        scope=scope,
                        window=window,
                        window_start=start,
                        percent=percent,
                        spent=spent,
                        cap=cap or 0,
                        version=new.version,
                    )
                )
    return [*found, *_quotas(before.tenant, after.tenant, hold, now)] if hold.takes else found


def _quotas(before: Account, after: Account, hold: Hold, now: Circumstances) -> Iterator[LimitNeared]:
    quotas = meters.of_tenant(hold.tenant_id, now).by_id
    for take in hold.takes:
        quota = quotas.get(take.quota_id)
        if quota is None or quota.window is None:
            continue
        spent_before, spent = (
            account.meters.get(take.quota_id, {}).get(take.start, Meter()).spent for account in (before, after)
        )
        for percent in _percents(spent_before, spent, quota.limit):
            yield LimitNeared(
                scope="quota",
                window=quota.window,
                window_start=take.start,
                percent=percent,
                spent=spent,
                cap=quota.limit,
                version=after.version,
                unit=quota.unit,
                quota=quota.quota_id,
                bounds=quota.named,
            )


def _percents(before: int, after: int, cap: int | None) -> Sequence[int]:
    if not cap or after * 100 < cap * PERCENTS[0]:  # nearly always
        return ()
    return [percent for percent in PERCENTS if before * 100 < cap * percent <= after * 100]


def _spent(account: Account, window: str, start: str) -> int:
    buckets = account.hours if window == "hour" else account.months
    return buckets.get(start, NO_MONEY).spent
