"""Acceptance 5 to 9: breaker, kill switch, shutoffs, caps and failures, on the running system."""

from __future__ import annotations

import json
import os
import re
import shlex
import signal
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from itertools import accumulate
from pathlib import Path
from threading import Event
from typing import Any
from unittest.mock import Mock
from uuid import uuid4

import pytest

from tests.stack import Stack, eventually, paused


class User:
    """One user of one tenant, with a key of their own."""

    def __init__(self, stack: Stack, tenant: str | None = None) -> None:
        self.stack = stack
        self.tenant: str = tenant or stack.ready["tenant_id"]
        self.id = str(uuid4())
        self.key = stack.key(self.tenant, self.id)

    def run(self, **fields: Any) -> dict[str, Any]:
        return self.stack.run(key=self.key, **fields)

    def at_once(self, count: int, **fields: Any) -> list[dict[str, Any]]:
        with ThreadPoolExecutor(min(count, 100)) as pool:
            return list(pool.map(lambda _: self.run(**fields), range(count)))

    def row(self, result: dict[str, Any]) -> dict[str, Any]:
        return self.stack.call(result, self.tenant, self.id)

    def rows(self, query: str) -> list[dict[str, Any]]:
        return self.stack.rows(query, self.tenant, self.id)

    @property
    def options(self) -> tuple[str, ...]:
        return "--tenant", self.tenant, "--user", self.id


@pytest.fixture
def user(stack: Stack) -> User:
    """Nobody has seen this user before."""
    return User(stack)


def said(results: list[dict[str, Any]]) -> Counter[str]:
    return Counter(one["blocked_reason"] or one["failure_reason"] or one["status"] for one in results)


ERROR = {"prompt": {"raise_error": True}}
CENT = {"prompt": {"simulated_cost_cents": 1}, "max_cost_cents": 1}


def test_three_failures_open_the_breaker_for_that_user_alone(user: User) -> None:
    for _ in range(3):
        assert user.run(**ERROR)["failure_reason"] == "provider_error:RuntimeError"
    row = user.row(user.run())
    assert (row["status"], row["block_reason"], row["provider_attempted"]) == ("blocked", "breaker_open", False)
    assert User(user.stack).run()["status"] == "success"
    (state,) = user.rows("SELECT * FROM llm_breaker_state")
    assert (state["state"], state["failure_count"]) == ("open", 3)


def test_a_cached_answer_is_served_while_the_breaker_is_open_but_not_under_a_switch(user: User) -> None:
    question = {"prompt": {"text": "q", "cache_enabled": True}}
    user.run(**question)
    for _ in range(3):
        user.run(**ERROR)
    assert user.run()["blocked_reason"] == "breaker_open"
    assert user.run(**question)["was_cached"]
    assert user.run(prompt={"text": "other", "cache_enabled": True})["blocked_reason"] == "breaker_open"
    user.stack.order("kill-switch", "engage", *user.options, "--reason", "drill")
    assert user.run(**question)["blocked_reason"] == "provider_kill_switch"


def test_twelve_failing_calls_at_once_send_three(user: User) -> None:
    results = user.at_once(12, prompt={"raise_error": True, "simulated_delay_ms": 100})
    assert said(results) == {"provider_error:RuntimeError": 3, "breaker_open": 9}


def test_after_the_open_time_exactly_one_probe_goes_through(impatient_stack: Stack) -> None:
    user = User(impatient_stack)
    for _ in range(3):
        user.run(**ERROR)

    def probed() -> Counter[str] | None:
        """What was decided while one of ten was under way; None where none got through, or all others came later."""
        results = {
            one["task_id"]: one for one in user.at_once(10, prompt={"model": "stub:probed", "simulated_delay_ms": 1200})
        }
        for one in results.values():
            user.row(one)
        kinds = ("task.allowed", "task.blocked", "reservation.ended")
        query = f"SELECT type, subject::text FROM events WHERE type IN {kinds} ORDER BY seq"
        decided = [(row["type"], row["subject"]) for row in user.rows(query) if row["subject"] in results]
        passed = next((task_id for kind, task_id in decided if kind == "task.allowed"), None)
        if passed is None or results[passed]["status"] != "success":
            return None
        found = said([results[task_id] for _, task_id in decided[: decided.index(("reservation.ended", passed))]])
        return found if len(found) > 1 else None

    found = eventually(probed, "a probe")
    assert (set(found), found["success"]) == ({"success", "breaker_open"}, 1)
    assert user.run()["status"] == "success"


def test_a_model_that_fails_users_of_two_tenants_is_closed_to_a_third_until_a_probe_succeeds(
    impatient_stack: Stack,
) -> None:
    flaky = {"model": "stub:flaky"}
    question = {"prompt": {**flaky, "text": "q", "cache_enabled": True}}
    one, two, third = (User(impatient_stack, str(uuid4())) for _ in range(3))
    third.run(**question)
    for user in (one, two):
        for _ in range(3):
            assert user.run(prompt={**flaky, "raise_error": True})["status"] == "failed"

    def ended(reason: str | None, prompt: dict[str, Any]) -> dict[str, Any] | None:
        found = third.run(prompt=prompt)
        return found if found["blocked_reason"] == reason else None

    blocked = eventually(lambda: ended("provider_breaker_open", flaky), "its breaker opens")
    assert third.run(**question)["was_cached"]
    assert third.run(prompt={**question["prompt"], "text": "other"})["blocked_reason"] == "provider_breaker_open"
    assert third.run()["status"] == "success", "another model"
    row = third.row(blocked)
    assert (row["status"], row["block_reason"], row["provider_attempted"]) == (
        "blocked",
        blocked["blocked_reason"],
        False,
    )
    eventually(lambda: ended(None, flaky), "a probe")

    def closed() -> dict[str, Any] | None:
        listed = json.loads(impatient_stack.cli("breakers", "--all", "--json").stdout)
        found: dict[str, Any] = next(breaker for breaker in listed if breaker["model"] == "flaky")
        return found if found["state"] == "closed" else None

    assert eventually(closed, "its breaker closes")["reason"] == "probes succeeded: 1"


def test_the_callers_mistakes_do_not_open_the_breaker(user: User) -> None:
    for _ in range(4):
        assert user.run(prompt={"model": "nowhere:model"})["blocked_reason"] == "unknown_provider"
        assert user.run(prompt={"model": "openai:no-such-model-4711"})["blocked_reason"] == "unpriced"
    assert user.run()["status"] == "success"


def test_a_kill_switch_by_command_line(user: User) -> None:
    user.stack.order("kill-switch", "engage", *user.options, "--reason", "runaway")
    row = user.row(user.run())
    assert (row["status"], row["block_reason"], row["provider_attempted"]) == ("blocked", "provider_kill_switch", False)
    engaged = json.loads(user.stack.cli("kill-switch", "status", "--json").stdout)["switches"]
    assert any(
        one["scope"].get("user_id") == user.id and one["reason"] == "runaway" and one["actor"] for one in engaged
    )
    user.stack.order("kill-switch", "release", *user.options, "--reason", "calm")
    assert user.run()["status"] == "success"


def test_what_others_wrote_is_no_markup_to_a_command(user: User) -> None:
    """A model's answer, an operator's reason, a quota's scope, an entry of the inbox: `[/x]` ended the command."""
    written, marked = "[/INST] as in [1] \x1b[31m", ("--model", "stub:[/x]")
    prompt = json.dumps({"text": "hi", "simulated_output_text": written})
    answered = user.stack.cli("submit", "route", "--prompt", prompt, "--wait", "20").stdout
    user.stack.order("kill-switch", "engage", *user.options, *marked, "--reason", written)
    user.stack.cli("limits", "set", "--tenant", user.tenant, *marked, "--calls", "5", "--per", "day")
    entry = user.stack.redis().xadd("skeldir:inbox", {"type": written, "data": written}).decode()

    def letters() -> list[str] | None:
        listed = json.loads(user.stack.cli("dead-letters", "list", "--json").stdout)
        return [one["id"] for one in listed if one["entry_id"] == entry] or None

    (dead,) = eventually(letters, "a dead letter")
    switches = user.stack.cli("kill-switch", "status").stdout
    quotas = user.stack.cli("limits", "show", "--tenant", user.tenant).stdout
    letter = user.stack.cli("dead-letters", "show", dead).stdout
    user.stack.order("kill-switch", "release", *user.options, *marked, "--reason", "calm")
    user.stack.cli("dead-letters", "discard", dead)
    for said in (answered, switches, letter):
        assert "[/INST] as in [1]" in said and "\x1b[31m" not in said
    assert "model=[/x]" in switches and "model=[/x]" in quotas


def test_a_dry_run_says_what_it_would_stop_and_stops_nothing(user: User) -> None:
    user.row(user.run(prompt={"simulated_cost_cents": 2, "model": "stub:dry"}))
    waiting = {"task_type": "route", "user_id": user.id, "prompt": {"simulated_delay_ms": 9000}}
    user.stack.post("/v1/tasks", waiting, key=user.key)
    engage = ("kill-switch", "engage", "--dry-run", "--reason", "runaway", *user.options)

    def both() -> bool:
        said = json.loads(user.stack.cli(*engage, "--json").stdout)
        return (said["under_way"], said["calls"], float(said["cost_cents"]), said["users"]) == (1, 1, 2, 1)

    eventually(both, "what is under way and what went through", 20)
    assert "would stop" in user.stack.cli(*engage, "--model", "stub:dry").stdout
    assert user.run()["status"] == "success"


def test_a_switch_that_stops_nothing_and_a_release_of_none_say_so(user: User) -> None:
    """Both are published: nobody who stops calls is to be held up by a doubt."""
    misspelt = (*user.options, "--model", "opnai:gpt-4o", "--reason", "drill")
    for order, doubt in (("engage", "no provider 'opnai'"), ("release", ""), ("release", "nothing was released")):
        done = user.stack.cli("kill-switch", order, *misspelt)
        assert "kill_switch." in done.stdout and (doubt in done.stderr if doubt else not done.stderr), done


def test_a_kill_switch_by_xadd_and_over_http(user: User) -> None:
    order = {"scope": {"tenant_id": user.tenant, "user_id": user.id}, "reason": "drill", "actor": "ann"}

    def by_xadd(event: dict[str, Any]) -> None:
        user.stack.redis().xadd("skeldir:control", {"data": json.dumps(event)})

    def by_http(event: dict[str, Any]) -> None:
        assert user.stack.post("/v1/control", event, key=user.stack.ready["operator_key"]).status_code == 202

    for way in (by_xadd, by_http):
        way({**order, "type": "kill_switch.engaged"})
        eventually(lambda: user.run()["blocked_reason"] == "provider_kill_switch", "the stop", 10)
        way({**order, "type": "kill_switch.released"})
        eventually(lambda: user.run()["status"] == "success", "the release", 10)


def test_a_kill_switch_for_everything(stack: Stack) -> None:
    users = [User(stack) for _ in range(2)]
    try:
        stack.order("kill-switch", "engage", "--reason", "all stop")
        assert {user.run()["blocked_reason"] for user in users} == {"provider_kill_switch"}
    finally:
        stack.order("kill-switch", "release", "--reason", "go")
    assert {user.run()["status"] for user in users} == {"success"}


def test_a_task_may_ask_for_its_own_stop(user: User) -> None:
    row = user.row(user.run(prompt={"kill_switch": True}))
    assert (row["block_reason"], row["provider_attempted"]) == ("provider_kill_switch", False)


def test_a_manual_shutoff_blocks_with_its_reason(user: User) -> None:
    user.stack.order("shutoff", "engage", *user.options, "--minutes", "10", "--reason", "card stolen")
    assert user.run()["blocked_reason"] == "card stolen"
    assert User(user.stack).run()["status"] == "success"
    state = eventually(lambda: next(iter(user.rows("SELECT * FROM llm_hourly_shutoff_state")), None), "the state")
    assert (state["is_shutoff"], state["reason"], state["disabled_until"] is not None) == (True, "card stolen", True)
    user.stack.order("shutoff", "release", *user.options)
    assert user.run()["status"] == "success"


def test_the_hourly_threshold_holds_in_a_burst_and_then_shuts_off(user: User) -> None:
    user.stack.order("limits", "set", *user.options, "--hourly-cents", "50")
    assert said(user.at_once(200, **CENT)) == {"success": 50, "hourly_threshold_exceeded": 150}
    assert user.run()["blocked_reason"] == "hourly_threshold_exceeded"
    _never_overshot(user, "hour", 50)


def test_the_monthly_cap_holds_in_a_burst(user: User) -> None:
    user.stack.order("limits", "set", *user.options, "--monthly-cents", "50")
    assert said(user.at_once(200, **CENT)) == {"success": 50, "monthly_cap_exceeded": 150}
    _never_overshot(user, "month", 50)
    eventually(lambda: user.rows("SELECT FROM llm_monthly_costs WHERE total_calls = 50"), "the month's calls")


def test_users_with_limits_of_their_own_are_listed(stack: Stack) -> None:
    """Who looks at the tenant's limits would not see that one of its users has less."""
    user = User(stack, tenant=str(uuid4()))
    show = ("limits", "show", "--tenant", user.tenant)
    stack.cli("limits", "set", "--tenant", user.tenant, "--monthly-cents", "900")
    assert json.loads(stack.cli(*show, "--json").stdout)["users"] == []
    stack.cli("limits", "set", *user.options, "--monthly-cents", "50.5", "--max-in-flight", "3")
    own = {"user_id": user.id, "monthly_cents": "50.5", "max_in_flight": "3"}
    assert json.loads(stack.cli(*show, "--json").stdout)["users"] == [own]
    said = stack.cli(*show).stdout
    assert user.id in said and "50.5" in said


def test_a_cap_that_is_raised_is_shown_at_once(stack: Stack) -> None:
    """No decision has been made under it yet, so the books do not have it."""
    user = User(stack, tenant=str(uuid4()))
    operator = stack.ready["operator_key"]
    path = f"/v1/spend?window=month&tenant_id={user.tenant}&user_id={user.id}"

    def cap() -> Any:
        return next(
            (row["cap_cents"] for row in stack.get(path, key=operator, base="ledger_url").json()["spend"]), None
        )

    stack.cli("limits", "set", *user.options, "--monthly-cents", "50")
    user.run(**CENT)
    eventually(lambda: cap() == 50, "the window in the books")
    stack.cli("limits", "set", *user.options, "--monthly-cents", "900")
    eventually(lambda: cap() == 900, "the cap that holds")


def test_the_in_flight_bound_holds_in_a_burst(stack: Stack) -> None:
    user = User(stack, tenant=str(uuid4()))
    stack.order("limits", "set", "--tenant", user.tenant, "--max-in-flight", "5")
    found = said(user.at_once(60, prompt={"simulated_delay_ms": 200}))
    assert set(found) == {"success", "max_in_flight_exceeded"} and found["success"] >= 5
    query = "SELECT type FROM events WHERE type IN ('task.allowed', 'reservation.ended') ORDER BY seq"
    everything = 2 * found["success"]
    turns = eventually(lambda: rows if len(rows := user.rows(query)) == everything else None, "the end of all")
    in_flight = list(accumulate(1 if turn["type"] == "task.allowed" else -1 for turn in turns))
    assert (max(in_flight), in_flight[-1]) == (5, 0)


def test_a_quota_holds_in_a_burst_and_says_what_is_left(user: User) -> None:
    user.stack.order("limits", "set", *user.options, "--task-type", "route", "--calls", "20", "--per", "month")
    assert said(user.at_once(60)) == {"success": 20, "quota_exceeded": 40}

    def settled() -> dict[str, Any] | None:
        """Whoever called has the answer a moment before policy counts it as spent."""
        shown = json.loads(user.stack.cli("limits", "show", *user.options, "--json").stdout)["quotas"]
        (quota,) = (one for one in shown if one["scope"] == {"user_id": user.id, "task_type": "route"})
        return None if quota["held"] else dict(quota)

    quota = eventually(settled, "all are spent")
    assert (quota["value"], quota["spent"], quota["free"]) == (20, 20, 0)
    assert user.stack.run("explanation", key=user.key)["status"] == "success"
    body = {"model": "stub:model", "messages": [{"role": "user", "content": "hi"}]}
    for stream in (False, True):
        refused = user.stack.post("/v1/chat/completions", {**body, "stream": stream}, key=user.key)
        assert (refused.status_code, refused.headers["x-ratelimit-remaining-requests"]) == (429, "0")
        assert 0 < int(refused.headers["retry-after"]) <= 31 * 86_400
    user.stack.order("limits", "unset", *user.options, "--task-type", "route", "--limit", "calls", "--per", "month")
    answered = user.stack.post("/v1/chat/completions", body, key=user.key)
    assert (answered.status_code, answered.headers["x-skeldir-remaining-cents"]) == (200, "500")


def test_the_examples_of_the_page_about_limits(user: User) -> None:
    page = (Path(__file__).parents[2] / "docs" / "limits.md").read_text()
    tenant = str(uuid4())
    lines = re.findall(r"^skeldir (.*)$", page, re.MULTILINE)
    said = [user.stack.cli(*shlex.split(line.replace("$TENANT", tenant).replace("$WHO", user.id))) for line in lines]
    quotas = json.loads(next(one.stdout for one in said if one.stdout.startswith("{")))["quotas"]
    assert [(one["limit"], one["value"], one["per"], one["mode"]) for one in quotas] == [
        ("calls", 20, "minute", "enforce"),
        ("cents", "50", "day", "enforce"),
        ("tokens", 200000, "month", "shadow"),
    ]
    example = re.search(r"```json\n(.*?)```", page, re.DOTALL)
    assert example is not None
    order = json.loads(example[1].replace('"…"', f'"{tenant}"').replace("…", "four"))
    assert user.stack.post("/v1/control", order, key=user.stack.ready["operator_key"]).status_code == 202
    assert "80 % of the month" in said[-1].stdout
    (bounds,) = next(found for one in said if one.stdout.startswith("[") and (found := json.loads(one.stdout)))
    assert (bounds["timeout_ms"], bounds["max_cost_cents"], bounds["max_tool_calls"]) == (60_000, "30", 10)
    user.stack.until_heard()
    messages = [{"role": "assistant", "tool_calls": [{}] * 11}]
    refused = user.stack.run("investigation", key=user.stack.key(tenant, user.id), prompt={"messages": messages})
    assert refused["blocked_reason"] == "max_tool_calls_exceeded"


def test_near_the_end_of_a_budget_a_cheaper_model_answers(user: User) -> None:
    rule = {"model": "stub:large", "to": "stub:small", "percent": 50, "actor": "ann"}
    for order in (
        {"type": "limits.set", "scope": {"tenant": user.tenant, "user": user.id}, "monthly_cents": 10, "actor": "ann"},
        {"type": "downgrade.set", "scope": {"tenant": user.tenant, "user": user.id}, **rule},
    ):
        assert user.stack.post("/v1/control", order, key=user.stack.ready["operator_key"]).status_code == 202
    user.stack.until_heard()
    large = {"prompt": {"model": "stub:large", "simulated_cost_cents": 6}}
    before, after = user.run(**large), user.run(prompt={"model": "stub:large"})
    assert (before["model"], before["requested_model"]) == ("large", None)
    assert (after["model"], after["requested_model"]) == ("small", "stub:large")
    row = user.row(after)
    assert (row["provider"], row["model"], row["requested_model"]) == ("stub", "small", "stub:large")
    body = {"model": "stub:large", "messages": [{"role": "user", "content": "hi"}]}
    for stream in (False, True):
        answer = user.stack.post("/v1/chat/completions", {**body, "stream": stream}, key=user.key)
        assert (answer.status_code, answer.headers["x-skeldir-requested-model"]) == (200, "stub:large")
        assert '"model":"small"' in answer.text.replace(": ", ":")


def test_a_reservation_over_the_cap_is_refused(user: User) -> None:
    row = user.row(user.run(max_cost_cents=2501))
    assert (row["status"], row["block_reason"]) == ("blocked", "monthly_cap_exceeded")


def test_a_max_cost_of_none_or_zero_reserves_the_worst_case(user: User) -> None:
    """6,000 cents went out in the replaced system, and none was counted."""
    for max_cost in (None, 0):
        result = user.run(prompt={"simulated_cost_cents": 2600}, max_cost_cents=max_cost)
        assert result["blocked_reason"] == "monthly_cap_exceeded"


def test_a_true_cost_above_the_reservation_is_recorded_in_full(user: User) -> None:
    result = user.run(prompt={"simulated_cost_cents": 7}, max_cost_cents=2)
    assert float(user.row(result)["cost_cents"]) == 7
    query = f"SELECT * FROM llm_budget_reservations WHERE api_call_id = '{result['task_id']}' AND state = 'settled'"
    settled = eventually(lambda: next(iter(user.rows(query)), None), "the settlement")
    assert (float(settled["settled_cents"]), float(settled["overrun_cents"])) == (7, 5)


def test_costs_are_exact_to_a_thousandth_of_a_cent(user: User) -> None:
    results = [user.run(prompt={"simulated_cost_cents": 0.001}, max_cost_cents=0.001) for _ in range(3)]
    user.row(results[-1])
    query = "SELECT total_cost_cents::text AS total FROM llm_monthly_costs WHERE total_calls = 3"
    assert eventually(lambda: user.rows(query), "the month")[0]["total"] == "0.003"


def test_a_timeout_is_perhaps_spent_until_the_late_result(impatient_stack: Stack) -> None:
    user = User(impatient_stack)
    slow = {"simulated_delay_ms": 2500, "simulated_cost_cents": 3}
    result = user.run(prompt=slow, max_cost_cents=5)
    row = user.row(result)
    assert (row["status"], row["failure_reason"], row["latency_ms"] >= 1400) == ("failed", "provider_timeout", True)
    query = f"SELECT FROM llm_budget_reservations WHERE api_call_id = '{result['task_id']}' AND state = 'settled'"
    eventually(lambda: user.rows(f"{query} AND settled_cents = 3"), "the late result")
    ends = "SELECT body::jsonb -> 'data' ->> 'how' AS how FROM events WHERE type = 'reservation.ended' ORDER BY seq"
    assert [one["how"] for one in user.rows(ends)] == ["held", "settled"]
    assert float(user.row(result)["cost_cents"]) == 3


def test_an_uncertain_attempt_is_shown_and_reconciled(impatient_stack: Stack) -> None:
    user = User(impatient_stack)
    lost = {"simulated_delay_ms": 60_000, "simulated_cost_cents": 3}
    result = user.run(prompt=lost, max_cost_cents=5)
    assert result["failure_reason"] == "provider_timeout"
    held = "SELECT request_id, reserved_cents::float FROM dashboard_uncertain_attempts"
    (shown,) = eventually(lambda: user.rows(held) or None, "the dashboard")
    assert (shown["request_id"], shown["reserved_cents"]) == (result["request_id"], 5)
    cli = user.stack.cli
    listed = [one["task_id"] for one in json.loads(cli("reconcile", "--json").stdout)]
    assert listed.count(result["task_id"]) == 1
    for wrong in ((result["task_id"],), ("unheard-of", "--cost-cents", "1", "--reason", "x")):
        refused = cli("reconcile", *wrong, check=False)
        assert (refused.returncode, len(refused.stderr.strip().splitlines())) == (2, 1)
    said = cli("reconcile", result["task_id"], "--cost-cents", "1.5", "--reason", "the invoice", "--json").stdout
    assert json.loads(said)["settled"] is True
    row = user.row(result)
    assert (float(row["budget_settled_cents"]), float(row["cost_cents"])) == (1.5, 1.5)
    assert row["latency_ms"] >= 1400 and row["status"] == "failed"
    assert not user.rows(held) and result["task_id"] not in cli("reconcile", "--json").stdout
    cli("ledger", "verify")
    cli("ledger", "rebuild")
    assert float(user.row(result)["cost_cents"]) == 1.5


def test_of_two_who_reconcile_an_attempt_one_hears_that_nothing_changed(impatient_stack: Stack) -> None:
    user = User(impatient_stack)
    result = user.run(prompt={"simulated_delay_ms": 60_000}, max_cost_cents=5)
    held = "SELECT decision_id::text FROM dashboard_uncertain_attempts"
    (attempt,) = eventually(lambda: user.rows(held) or None, "the dashboard")
    first = {"type": "attempt.reconciled", "tenant_id": user.tenant, **attempt, "cost_cents": "1.5", "reason": "x"}
    log = user.stack.redis()

    def is_second(at: str) -> bool:
        """Who comes later has found it uncertain, too, and has given the order."""
        return any(
            attempt["decision_id"].encode() in one[b"data"] for _, one in log.xrange("skeldir:control", f"({at}")
        )

    def hold_policy() -> None:
        with paused(user.stack.pid("policy")):
            at = log.xadd("skeldir:control", {"data": json.dumps({**first, "actor": "ann"})}).decode()
            held_up.set()
            eventually(lambda: is_second(at), "the second order")

    held_up = Event()
    with ThreadPoolExecutor(1) as pool:
        holding = pool.submit(hold_policy)
        assert held_up.wait(30)
        refused = user.stack.refused("reconcile", result["task_id"], "--cost-cents", "2", "--reason", "the invoice")
        holding.result()
    assert "was settled at 1.5 cents meanwhile" in refused
    assert float(user.row(result)["budget_settled_cents"]) == 1.5


def test_a_provider_error_fails_with_its_type(user: User) -> None:
    result = user.run(prompt={"raise_error": "ServiceUnavailable"})
    assert (result["status"], result["failure_reason"]) == ("failed", "provider_error:ServiceUnavailable")


def test_a_crash_in_mid_call_ends_and_tells_the_truth(impatient_stack: Stack) -> None:
    """In the replaced system: pending for ever, money held, `provider_attempted` false."""

    def crashed() -> tuple[User, dict[str, Any], dict[str, Any]] | None:
        """Somebody's task and its row; None where the call was over before the executor was gone."""
        user = User(impatient_stack)
        prompt = {"model": "stub:crashing", "simulated_delay_ms": 5000}
        body = {"task_type": "route", "prompt": prompt, "max_cost_cents": 4}
        executor = user.stack.pid("executor")
        task = user.stack.post("/v1/tasks", body, key=user.key).json()
        eventually(lambda: user.rows("SELECT id FROM events WHERE type = 'attempt.started'"), "the attempt")
        os.kill(executor, signal.SIGKILL)
        row = user.row(task)
        return None if row["failure_reason"] == "provider_timeout" else (user, task, row)

    user, task, row = eventually(crashed, "an executor dies in mid-call", 60)
    assert (row["status"], row["failure_reason"]) == ("failed", "attempt_uncertain")
    assert row["provider_attempted"] is True
    held = f"SELECT state FROM llm_budget_reservations WHERE api_call_id = '{task['task_id']}'"
    eventually(lambda: user.rows(held)[0]["state"] == "held", "the reservation is kept")


def test_whoever_is_at_the_terminal_may_stop_everything(user: User, monkeypatch: pytest.MonkeyPatch) -> None:
    """In a container nobody has a name; and names that people have are not all fit to be a connection's."""
    for names in ({"return_value": "Zoë Doe"}, {"side_effect": OSError("No username set in the environment")}):
        monkeypatch.setattr("getpass.getuser", Mock(**names))
        for order in ("engage", "release"):
            done = user.stack.cli("kill-switch", order, *user.options, "--reason", "from a container", "--json")
            assert json.loads(done.stdout)["actor"] == names.get("return_value", f"uid-{os.getuid()}")


def _never_overshot(user: User, window: str, cap: int) -> None:
    """From the events alone: spent and reserved never passed the cap, at any moment."""
    query = (
        "SELECT body::jsonb -> 'data' -> 'balances' AS balances FROM events WHERE body LIKE '%balances%' ORDER BY seq"
    )
    eventually(lambda: len(user.rows(query)) >= 2 * cap, "all balances")
    for row in user.rows(query):
        for balance in row["balances"]:
            if balance["window"] == window and balance["scope"] == "user":
                assert balance["spent"] + balance["reserved"] <= cap * 10**9
