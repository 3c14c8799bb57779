"""Invariant 3: one request is one task of one user and body, and at most one call for each recorded attempt."""

from __future__ import annotations

from collections.abc import Iterator

from services.ledger.history.entry import Entry, Finding
from services.ledger.history.live import Decision, Life, Live
from shared.events.decisions import TaskAllowed
from shared.events.outcomes import AttemptStarted
from shared.events.tasks import Task, TaskSubmitted, task_id_of


class OneAnswer:
    """One task id a request, one decision in force, attempts that count up in one executor's hands."""

    name = "history_3_one_answer"
    claim = "One request is one task, with one decision in force and each attempt once."

    def look(self, live: Live, entry: Entry) -> Iterator[Finding]:
        match entry.event.data:
            case TaskSubmitted(task=task):
                yield from self._same_request(live, entry, task)
            case TaskAllowed(task=task):
                yield from self._same_request(live, entry, task)
                yield from self._allowed(live, entry, task)
            case AttemptStarted() as data:
                yield from self._attempt(live, entry, data)

    def finish(self, live: Live, before_ms: int) -> Iterator[Finding]:
        yield from ()

    def _same_request(self, live: Live, entry: Entry, task: Task) -> Iterator[Finding]:
        tenant_id = entry.event.tenantid
        if tenant_id is not None and task_id_of(tenant_id, task.task_type, task.request_id) != task.task_id:
            wanted = f"the id of request {task.request_id!r}"
            yield self._finding(entry, wanted, f"{task.task_id}", ())
        life = live.tasks.get(task.task_id)
        if life is not None and (life.task.fingerprint, life.user_id) != (task.fingerprint, entry.event.userid):
            yield self._finding(entry, "one body and user", "another under the same request id", (life.entry.name,))
        elif life is not None and _asked(life.task) != _asked(task):
            yield self._finding(entry, f"asked of {_asked(life.task)}", f"of {_asked(task)}", (life.entry.name,))

    def _allowed(self, live: Live, entry: Entry, task: Task) -> Iterator[Finding]:
        life = live.tasks.get(task.task_id)
        if life is None:
            if live.should_know(entry, "tasks"):
                yield self._finding(entry, "a submitted task", "none: never submitted, or ended before", ())
        elif life.end is not None:
            yield self._finding(entry, "no decision after the end", "an allow", (life.end.name,))
        else:
            yield from self._in_force(life, entry)

    def _in_force(self, life: Life, entry: Entry) -> Iterator[Finding]:
        for decision in life.decisions:
            if decision.given_back is None:
                seen = (decision.entry.name,)
                yield self._finding(entry, "one decision in force", "a second, the first was not given back", seen)

    def _attempt(self, live: Live, entry: Entry, data: AttemptStarted) -> Iterator[Finding]:
        decision = live.decisions.get(data.decision_id)
        if decision is None:
            return
        yield from self._of_a_model(decision, entry, data)
        before = decision.attempts[-1] if decision.attempts else None
        number = before.number + 1 if before is not None else 1
        if data.attempt_no != number:
            seen = (before.entry.name,) if before is not None else ()
            yield self._finding(entry, f"attempt {number}", f"attempt {data.attempt_no}", seen)
        elif before is not None and data.executor != before.executor:
            # Only the executor whose call failed knows that nothing was spent.
            seen = (before.entry.name,)
            yield self._finding(entry, f"a retry by {before.executor}", f"one by {data.executor}", seen)

    def _of_a_model(self, decision: Decision, entry: Entry, data: AttemptStarted) -> Iterator[Finding]:
        """Only models are called that the decision names, whose worst case its reservation holds."""
        allowed, named = decision.allowed, (data.task.provider, data.task.model)
        others = {(one.provider, one.model): one.amount for one in allowed.alternatives}
        if named != (allowed.task.provider, allowed.task.model) and named not in others:
            yield self._finding(entry, "a model that the decision names", ":".join(named), (decision.entry.name,))
        elif others.get(named, 0) > allowed.reservation.amount:
            held = f"at most {allowed.reservation.amount} nanocents"
            yield self._finding(entry, held, f"{others[named]} for {':'.join(named)}", (decision.entry.name,))

    def _finding(self, entry: Entry, expected: str, found: str, others: tuple[str, ...]) -> Finding:
        return Finding(self.name, f"task {entry.event.subject}", expected, found, (*others, entry.name))


def _asked(task: Task) -> str:
    """The model that the request named, also where a decision moved the task to another."""
    return task.requested_model or f"{task.provider}:{task.model}"
