"""Storage policy and guards, from outside: nothing that may not be stored is in any table, and the books hold."""

from __future__ import annotations

import json
from uuid import uuid4

import psycopg

from tests.stack import Stack, eventually


def tables_with(stack: Stack, text: str) -> list[str]:
    """Every table of the database that holds this text, as its owner sees it."""
    with psycopg.connect(stack.ready["admin_database_url"]) as connection:
        names = connection.execute(
            "SELECT c.oid::regclass::text FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace "
            "WHERE c.relkind = 'r' AND n.nspname NOT IN ('pg_catalog', 'information_schema')"
        ).fetchall()
        found = []
        for (name,) in names:
            query = f"SELECT count(*) FROM {name} AS t WHERE t::text LIKE %s"
            (count,) = connection.execute(query.encode(), [f"%{text}%"]).fetchone() or (0,)
            found += [name] * bool(count)
        return found


def test_texts_are_stored_as_the_tenant_wants_it(stack: Stack) -> None:
    tenant, user = str(uuid4()), str(uuid4())
    key = stack.key(tenant, user)
    submitted = "SELECT body FROM events WHERE type = 'task.submitted' AND subject = '{}'"
    for store in ("full", "redacted", "none"):
        stack.cli("privacy", "set", "--tenant", tenant, "--store", store)
        assert json.loads(stack.cli("privacy", "show", "--tenant", tenant, "--json").stdout)["store"] == store

        def is_known(store: str = store) -> bool:
            probe = stack.run(key=key)
            stack.call(probe, tenant, user)
            (row,) = stack.rows(submitted.format(probe["task_id"]), tenant, user)
            return bool(json.loads(row["body"])["data"]["task"]["storage"] == store)

        eventually(is_known, "the gateway knows the order")
        secret = f"{uuid4().hex}@example.com"
        prompt = {"text": f"I am {secret}", "simulated_output_text": f"hello {secret}", "cache_enabled": True}
        result = stack.run(key=key, prompt=prompt)
        stack.call(result, tenant, user)
        assert secret in result["output_text"], "who asks is answered in full"
        assert not tables_with(stack, secret), "what is stored is encrypted"
        told = stack.readable(result, key=key)["output_text"]
        assert told == {"full": f"hello {secret}", "redacted": "hello [email]", "none": ""}[store]
        assert stack.run(key=key, prompt=prompt)["was_cached"] is (store != "none")
        failed = stack.run(key=key, prompt={**prompt, "raise_error": True})
        assert failed["status"] == "failed"
        assert not tables_with(stack, secret), store
    stack.cli("ledger", "verify")
    stack.cli("ledger", "rebuild")
    assert not tables_with(stack, secret)


def test_a_guard_blocks_and_the_finding_is_told_nowhere(stack: Stack) -> None:
    tenant, user, card = str(uuid4()), str(uuid4()), "4012 8888 8888 1881"
    key = stack.key(tenant, user)
    stack.cli("privacy", "set", "--tenant", tenant, "--store", "redacted", "--block", "card")

    def blocked() -> dict[str, object] | None:
        result = stack.run(key=key, prompt={"text": f"pay with {card}"})
        return result if result["status"] == "blocked" else None

    result = eventually(blocked, "the order is known")
    assert result["blocked_reason"] == "guard_card"
    row = stack.call(result, tenant, user)
    assert card not in json.dumps(row, default=str)
    body = {"model": "stub:m", "messages": [{"role": "user", "content": card}]}
    reply = stack.post("/v1/chat/completions", body, key=key)
    assert (reply.status_code, reply.json()["error"]["code"]) == (400, "guard_card")
    assert card not in reply.text
