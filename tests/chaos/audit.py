"""The audit of a chaos run: each line counts what it looked at, and names what must not be. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from tests.chaos.evidence import ENDS, POISON, Call, Evidence
from tests.chaos.stops import CLAIM, switches_hold

CLOCK_MS = 120_000.0
"""An event may wait for a server that is away, never for hours; the skewed clocks are wrong by hours."""


@dataclass(frozen=True, slots=True)
class Line:
    """One claim of the audit."""

    name: str
    claim: str
    counted: int
    findings: list[str]


Check = Callable[[Evidence], tuple[int, Iterator[str]]]


def audit(evidence: Evidence) -> list[Line]:
    """Every line, over one run."""
    lines = []
    for name, (claim, check) in CHECKS.items():
        counted, findings = check(evidence)
        lines.append(Line(name, claim, counted, list(findings)))
    return lines


def accepted_ended(seen: Evidence) -> tuple[int, Iterator[str]]:
    accepted = {one.task_id: one for one in seen.requests if one.acknowledged}
    submitted = {event.subject for event in seen.of("task.submitted")}

    def findings() -> Iterator[str]:
        for task_id in sorted(accepted.keys() | submitted):
            ends = seen.ends.get(task_id, [])
            if not ends:
                where = "acknowledged" if task_id in accepted else "submitted"
                yield f"{task_id}: {where}, and has no end"
                continue
            request = accepted.get(task_id)
            status = request and (request.final or {}).get("status")
            if request is not None and status != ENDS[ends[0].type]:
                yield f"{task_id}: {status} over HTTP, {ends[0].type} in the ledger"

    return len(accepted.keys() | submitted), findings()


def ended_once(seen: Evidence) -> tuple[int, Iterator[str]]:
    twice = ((task, ends) for task, ends in seen.ends.items() if len(ends) > 1)
    return len(seen.ends), (f"{task}: {', '.join(end.type for end in ends)}" for task, ends in twice)


def calls_allowed(seen: Evidence) -> tuple[int, Iterator[str]]:
    def problem(call: Call) -> str | None:
        attempt = seen.attempts.get(call.attempt_id)
        if attempt is None:
            return "was never recorded"
        if attempt.subject != call.task_id:
            return f"is recorded for task {attempt.subject}"
        if attempt.order[0] > call.at_ms:
            return f"was recorded {attempt.order[0] - call.at_ms:.0f} ms after its call"
        allow = seen.allows.get(attempt.data["decision_id"])
        if allow is None or allow.subject != call.task_id:
            return "has no allow"
        # By the millisecond: within one, the numbers of two streams say nothing of each other.
        return None if allow.order[0] <= attempt.order[0] else "was allowed after it began"

    return len(seen.calls), (
        f"attempt {call.attempt_id}: {found}" for call in seen.calls if (found := problem(call)) is not None
    )


def called_once(seen: Evidence) -> tuple[int, Iterator[str]]:
    calls = Counter(call.attempt_id for call in seen.calls)
    return len(seen.attempts), (f"attempt {one}: {count} calls" for one, count in calls.items() if count > 1)


def costs_agree(seen: Evidence) -> tuple[int, Iterator[str]]:
    """Each attempt of which the ledger states a cost, against the provider's line for it."""
    account = {call.attempt_id: call.charged for call in seen.calls}
    stated = [(event, cost) for event in seen.events if (cost := stated_cost(event.type, event.data)) is not None]

    def findings() -> Iterator[str]:
        for event, cost in stated:
            attempt = event.data["attempt_id"]
            if attempt not in account and (cost or event.type == "task.succeeded"):
                yield f"attempt {attempt}: {event.type}, and the provider was never called"
            elif account.get(attempt, 0) != cost:
                yield f"attempt {attempt}: charged {account.get(attempt, 0)}, {event.type} says {cost}"

    return len(stated), findings()


def stated_cost(kind: str, data: dict[str, object]) -> int | None:
    """What an event says that its attempt cost; None where it says nothing of the kind."""
    if data.get("attempt_id") is None or kind not in ("task.succeeded", "task.failed", "attempt.resolved"):
        return None
    if kind == "task.succeeded":
        return int(data["usage"]["cost"]) if data["provider_attempted"] else None  # type: ignore[index]
    if data["spend"] == "uncertain":
        return None
    return int(data["usage"]["cost"]) if data["spend"] == "certain" else 0  # type: ignore[index]


def reservations_agree(seen: Evidence) -> tuple[int, Iterator[str]]:
    """What each reservation came to, against all that the provider charged for its decision."""

    def findings() -> Iterator[str]:
        for decision, ends in seen.reservations.items():
            charged = seen.charged.get(decision, 0)
            if ends and ends[-1].data["how"] != "held" and ends[-1].data["settled"] != charged:
                how, settled = ends[-1].data["how"], ends[-1].data["settled"]
                yield f"decision {decision}: charged {charged}, {how} at {settled}"

    return len(seen.reservations), findings()


def unreceived_are_open(seen: Evidence) -> tuple[int, Iterator[str]]:
    """An attempt that the provider never got cannot have answered."""
    received = {call.attempt_id for call in seen.calls}
    lost = [attempt for attempt in seen.attempts if attempt not in received]
    answered = {
        event.data["attempt_id"]: event
        for event in seen.of("task.succeeded", "attempt.resolved")
        if event.data.get("attempt_id") and event.data.get("spend", "certain") == "certain"
    }
    return len(lost), (f"attempt {one}: {answered[one].type}" for one in lost if one in answered)


def overshoot(seen: Evidence) -> tuple[int, Iterator[str]]:
    balances = [
        (event, one) for event in seen.of("task.allowed", "reservation.ended") for one in event.data["balances"]
    ]
    capped = [(event, one) for event, one in balances if one.get("cap") is not None]
    return len(capped), (
        f"{event.id}: {one['spent']} spent and {one['reserved']} reserved of {one['cap']} a {one['window']}"
        for event, one in capped
        if one["spent"] + one["reserved"] > one["cap"]
    )


def none_leaked(seen: Evidence) -> tuple[int, Iterator[str]]:
    """What is still held is exactly what is uncertain, by the events and by policy's own state."""
    uncertain = uncertain_decisions(seen)
    open_ = {decision for decision, ends in seen.reservations.items() if not ends or ends[-1].data["how"] == "held"}

    def findings() -> Iterator[str]:
        for decision in sorted(open_ | uncertain | seen.holds.keys()):
            kept, held = seen.holds.get(decision, "nothing"), decision in open_
            if not held or decision not in uncertain or kept != "held":
                said = "uncertain" if decision in uncertain else "certain"
                yield f"decision {decision}: {said}, {'open' if held else 'ended'} in the ledger, {kept} kept by policy"

    return len(seen.reservations), findings()


def uncertain_decisions(seen: Evidence) -> set[str]:
    """Decisions with an attempt whose end nobody knows, and nobody told later."""
    known = {event.data["decision_id"] for event in seen.of("attempt.resolved")}
    unknown = {
        event.data["decision_id"]
        for event in seen.of("task.failed", "decision.expired")
        if event.data.get("spend") == "uncertain"
    }
    return unknown - known


def ended_reservations_stay(seen: Evidence) -> tuple[int, Iterator[str]]:
    def again(hows: list[str]) -> bool:
        return len(hows) > 2 or (len(hows) == 2 and (hows[0] != "held" or hows[1] == "held"))

    ended = {one: [end.data["how"] for end in ends] for one, ends in seen.reservations.items() if ends}
    return len(ended), (f"decision {one}: {', '.join(hows)}" for one, hows in ended.items() if again(hows))


def no_duplicates(seen: Evidence) -> tuple[int, Iterator[str]]:
    """One row a request; and whoever asked again got the one answer."""

    def findings() -> Iterator[str]:
        for row, count in Counter(seen.rows).items():
            if count > 1:
                yield f"{row}: {count} rows"
        for request in seen.requests:
            if request.conflicts:
                yield f"{request.request_id}: {request.conflicts} times a conflict with itself"
            for answer in request.answers:
                if answer != request.final:
                    yield f"{request.request_id}: answered {answer}, and then {request.final}"

    return sum(request.sent for request in seen.requests), findings()


def letters_meant(seen: Evidence) -> tuple[int, Iterator[str]]:
    def findings() -> Iterator[str]:
        for letter in seen.letters:
            if POISON not in letter.data:
                yield f"{letter.origin} {letter.entry_id}: {letter.reason}"
        for name in sorted(seen.poison):
            if not any(name in letter.data for letter in seen.letters):
                yield f"{name}: put in, and not among the dead letters"

    return len(seen.letters), findings()


def clocks_agree(seen: Evidence) -> tuple[int, Iterator[str]]:
    """A process with a wrong clock leaves no trace: neither in an event's time, nor in the window of a balance."""
    wrong = (event for event in seen.events if abs(event.time_ms - event.order[0]) > CLOCK_MS)
    return len(seen.events), (
        f"{event.type} {event.id}: {event.time_ms - event.order[0]:.0f} ms off" for event in wrong
    )


def commands_agree(seen: Evidence) -> tuple[int, Iterator[str]]:
    return len(seen.commands), (f"{name}: exit {code}" for name, code in seen.commands.items() if code)


CHECKS: dict[str, tuple[str, Check]] = {
    "accepted = ended": ("Each accepted task has its end, in the ledger and over HTTP.", accepted_ended),
    "ended once": ("No task ended twice.", ended_once),
    "calls were allowed": ("Each call has an attempt and an allow in the log before it.", calls_allowed),
    "attempts called once": ("No attempt made two calls.", called_once),
    "costs agree": ("What the ledger says an attempt cost is what the provider charged.", costs_agree),
    "reservations agree": ("Each reservation was settled at what its calls were charged.", reservations_agree),
    "unreceived are open": ("What never reached the provider was never answered.", unreceived_are_open),
    "overshoot 0": ("Spent and reserved never passed a cap.", overshoot),
    "leaked 0": ("What is still held is exactly what is uncertain.", none_leaked),
    "reservations end once": ("No reservation was settled or released twice.", ended_reservations_stay),
    "duplicates 0": ("One row and one answer for each request, however often it came.", no_duplicates),
    "switches hold": (
        CLAIM,
        switches_hold,
    ),
    "dead letters": ("Only what was put in on purpose, and all of it.", letters_meant),
    "clocks agree": ("Wrong clocks of processes changed nothing.", clocks_agree),
    "verified": ("The ledger's own checks find the books and the history sound.", commands_agree),
}
