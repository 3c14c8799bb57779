"""Webhooks, pure: who is told what, signatures, what follows an answer, and where a request may go."""

from __future__ import annotations

import base64
from datetime import UTC, datetime
from ipaddress import ip_address
from typing import Any
from uuid import UUID, uuid4

import orjson
import pytest

from services.ledger.intake import Record, read_event
from services.ledger.webhooks.messages import messages_of
from services.ledger.webhooks.post import is_public
from services.ledger.webhooks.retry import Answer, next_step
from services.policy.decide import Owner
from shared.control_state import ControlState, Webhook, evolve
from shared.events.control import InvalidControl, parse_control
from shared.events.decisions import LimitNeared
from shared.events.envelope import new
from shared.events.webhooks import Told
from shared.money import to_cents
from shared.webhook_signing import headers, secret_of, shown
from tests.unit.ledger.history import History, play

ALL: frozenset[str] = frozenset(Told.__args__)  # type: ignore[attr-defined]
NOW = datetime(2026, 11, 23, 12, tzinfo=UTC)
TENANT, OTHER = UUID(int=1), UUID(int=2)


def hook(tenant: UUID | None, events: frozenset[str] = ALL, since_ms: int = 0) -> Webhook:
    return Webhook(f"wh_{uuid4().hex[:8]}", tenant, "https://example.com", events, "ann", since_ms)


@pytest.fixture(scope="module")
def history() -> History:
    """Successes, failures that open a breaker, a block, and spending past 50 percent."""
    ops = [("submit", 0, 3), ("succeed", 0, 8), ("submit", 1, 1)] + [("submit", 0, 1), ("fail", 0, 2)] * 4
    found = play(ops, (Owner(TENANT, UUID(int=3)), Owner(TENANT, UUID(int=4))))
    found.order(type="kill_switch.engaged", scope={}, reason="everything", actor="ann")
    found.order(type="kill_switch.engaged", scope={"tenant_id": str(TENANT)}, reason="one", actor="ann")
    return found


def test_a_tenant_is_told_of_its_own_and_of_nothing_else(history: History) -> None:
    mine, another, operators = hook(TENANT), hook(OTHER), hook(None)
    records = history.records() + history.control_records()
    found = [message for record in records for message in messages_of(record, [mine, another, operators])]
    to = {
        one.webhook_id: [message for message in found if message.webhook_id == one.webhook_id]
        for one in (mine, another, operators)
    }
    assert not to[another.webhook_id]
    assert {message.tenant_id for message in to[mine.webhook_id]} == {TENANT}
    assert {message.type for message in to[mine.webhook_id]} >= {
        "task.succeeded", "task.failed", "breaker.changed", "kill_switch.engaged",
    }  # fmt: skip
    reasons = [orjson.loads(one.body)["data"]["reason"] for one in to[mine.webhook_id] if one.type.startswith("kill")]
    assert reasons == ["one"]
    switches = [orjson.loads(one.body)["data"] for one in to[operators.webhook_id] if one.type.startswith("kill")]
    assert [one["reason"] for one in switches] == ["everything", "one"] and all(one["actor"] for one in switches)
    assert not any("actor" in orjson.loads(one.body)["data"] for one in to[mine.webhook_id])


def test_a_message_says_what_happened_and_neither_prompt_nor_answer(history: History) -> None:
    messages = {
        one.type: orjson.loads(one.body) for record in history.records() for one in messages_of(record, [hook(TENANT)])
    }
    assert set(messages["task.succeeded"]) == {"type", "timestamp", "data"}
    data = messages["task.succeeded"]["data"]
    assert data["status"] == "success" and data["request_id"] and data["usage"]["cost_cents"] > 0
    assert "output_text" not in data and "prompt" not in orjson.dumps(messages).decode()
    breaker = messages["breaker.changed"]["data"]
    assert breaker["state"] != breaker["previous"]


def test_amounts_of_money_are_cents_and_others_are_counts() -> None:
    def told(**fields: Any) -> dict[str, Any]:
        payload = LimitNeared(scope="quota", window="day", window_start="2026-11-23", percent=50, version=1, **fields)
        event = new(payload, event_id=uuid4(), source="/test", subject="x", now_ms=5, tenantid=TENANT, userid=OTHER)
        record = read_event(0, "{skeldir:0}:decisions", (b"5-0", {b"data": event.to_json()}))
        assert isinstance(record, Record)
        (message,) = messages_of(record, [hook(TENANT)])
        found: dict[str, Any] = orjson.loads(message.body)["data"]
        return found

    money, calls = told(spent=5 * 10**9, cap=10**10), told(unit="calls", spent=50, cap=100)
    assert money["spent_cents"] * 2 == money["cap_cents"] == float(to_cents(10**10)) and "spent" not in money
    assert (calls["spent"], calls["cap"]) == (50, 100) and "spent_cents" not in calls


def test_what_was_not_asked_for_or_was_before_is_not_told(history: History) -> None:
    some, late = hook(TENANT, frozenset({"task.failed"})), hook(TENANT, since_ms=2**45)
    found = [one for record in history.records() for one in messages_of(record, [some, late])]
    assert {(one.webhook_id, one.type) for one in found} == {(some.webhook_id, "task.failed")}


def test_the_same_event_gives_the_same_message_and_each_webhook_its_own(history: History) -> None:
    one, two = hook(TENANT), hook(TENANT)
    ids = [
        {m.message_id for record in history.records() for m in messages_of(record, [each])} for each in (one, one, two)
    ]
    assert ids[0] == ids[1] and not ids[0] & ids[2]


def test_the_signature_is_that_of_the_specification() -> None:
    """The example that the libraries of Standard Webhooks test by."""
    secret = base64.b64decode("MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw")
    sent = headers(secret, "msg_p5jXN8AQM9LWM0D4loKWxJek", 1614265330, b'{"test": 2432232314}')
    assert sent["webhook-signature"] == "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="


def test_each_webhook_has_a_secret_of_its_own() -> None:
    assert len({secret_of(key, name) for key in ("k" * 32, "l" * 32) for name in ("wh_1", "wh_2")}) == 4
    assert len(base64.b64decode(shown(secret_of("k" * 32, "wh_1")).removeprefix("whsec_"))) == 32


@pytest.mark.parametrize(
    ("answer", "what", "at_least", "at_most"),
    [
        (Answer(200), "delivered", 0, 0),
        (Answer(204), "delivered", 0, 0),
        (Answer(302), "again", 2, 4),
        (Answer(500), "again", 2, 4),
        (Answer(problem="cannot be reached"), "again", 2, 4),
        (Answer(410), "ended", 0, 0),
        (Answer(503, retry_after="60"), "again", 60, 60),
        (Answer(429, retry_after="Mon, 23 Nov 2026 12:01:30 GMT"), "again", 90, 90),
        (Answer(429, retry_after="soon"), "again", 2, 4),
        (Answer(503, retry_after="999999999"), "given_up", 0, 0),
        (Answer(500, retry_after="60"), "again", 2, 4),
    ],
)
@pytest.mark.parametrize("chance", [0.0, 1.0])
def test_what_follows_an_answer(answer: Answer, what: str, at_least: float, at_most: float, chance: float) -> None:
    step = next_step(answer, attempts=3, age_s=10, give_up_s=3600, first_pause_s=1, chance=chance, now=NOW)
    assert step.what == what and at_least <= step.pause_s <= at_most
    assert bool(step.problem) == (what != "delivered")


def test_pauses_double_up_to_a_bound_and_then_it_is_given_up() -> None:
    def step(attempts: int, age_s: float) -> tuple[str, float]:
        found = next_step(
            Answer(500), attempts=attempts, age_s=age_s, give_up_s=86_400, first_pause_s=1, chance=1, now=NOW
        )
        return found.what, found.pause_s

    assert [step(attempts, 0)[1] for attempts in (1, 2, 3, 12, 13, 10_000)] == [1, 2, 4, 2048, 3600, 3600]
    assert step(20, 86_400 - 3599) == ("given_up", 0)


@pytest.mark.parametrize(
    ("address", "public"),
    [
        ("93.184.216.34", True),
        ("2606:4700::6810:84e5", True),
        ("127.0.0.1", False),
        ("10.1.2.3", False),
        ("172.16.0.1", False),
        ("192.168.1.1", False),
        ("169.254.169.254", False),
        ("100.64.0.1", False),
        ("0.0.0.0", False),
        ("224.0.0.1", False),
        ("255.255.255.255", False),
        ("::1", False),
        ("::", False),
        ("fe80::1", False),
        ("fd00:ec2::254", False),
        ("ff0e::1", False),
        ("::ffff:127.0.0.1", False),
        ("::ffff:169.254.169.254", False),
        ("64:ff9b::7f00:1", False),
        ("2002:7f00:1::", False),
    ],
)
def test_where_a_request_may_go(address: str, public: bool) -> None:
    assert is_public(ip_address(address)) is public


@pytest.mark.parametrize(
    "changed",
    [
        {"url": "ftp://example.com/"},
        {"url": "https://ann:secret@example.com/"},
        {"url": "https:///nowhere"},
        {"url": "https://example.com/a b"},
        {"url": "https://example.com:port/"},
        {"url": "https://example.com/#there"},
        {"events": []},
        {"events": ["task.submitted"]},
        {"tenant_id": "acme"},
        {"scope": {}},
        {"webhook_id": "a b"},
    ],
)
def test_a_webhook_that_cannot_be_is_refused(changed: dict[str, object]) -> None:
    good = {"type": "webhook.set", "webhook_id": "wh_1", "url": "https://example.com/x", "events": ["task.failed"]}
    parse_control(orjson.dumps(good))
    with pytest.raises(InvalidControl):
        parse_control(orjson.dumps({**good, **changed}))


def test_webhooks_are_state_that_an_order_sets_and_removes() -> None:
    def order(state: ControlState, at: int, **fields: object) -> ControlState:
        return evolve(state, f"{at}-0", parse_control(orjson.dumps({"webhook_id": "wh_1", **fields})))

    set_ = {"type": "webhook.set", "events": ["task.failed"], "tenant_id": str(TENANT)}
    state = order(ControlState(), 5, **set_, url="https://one.example")
    state = order(state, 7, **set_, url="https://two.example")
    assert state.webhooks["wh_1"].url == "https://two.example" and state.webhooks["wh_1"].since_ms == 7
    assert state.webhooks["wh_1"].tenant_id == TENANT
    assert not order(state, 8, type="webhook.removed").webhooks
