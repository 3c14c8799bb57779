"""Encrypted texts and their erasure, from outside: who may read sees them, no table does, the books balance."""

from __future__ import annotations

import json
from uuid import uuid4

from tests.acceptance.test_privacy import tables_with
from tests.stack import Stack


def test_texts_are_encrypted_and_an_erasure_ends_them(stack: Stack) -> None:
    tenant, user, other = str(uuid4()), str(uuid4()), str(uuid4())
    secret, kept = f"secret-{uuid4().hex}", f"kept-{uuid4().hex}"
    keys = {who: stack.key(tenant, who) for who in (user, other)}
    results = {}
    for who, word in ((user, secret), (other, kept)):
        prompt = {"text": f"I am {word}", "simulated_output_text": f"hello {word}", "cache_enabled": True}
        task_type = "investigation" if who == user else "route"
        results[who] = stack.run(task_type, key=keys[who], prompt=prompt)
        stack.call(results[who], tenant, who)
        assert not tables_with(stack, word), "no table has the text"

    def timeline(who: str) -> str:
        return stack.get(f"/v1/calls/{results[who]['task_id']}/timeline", key=keys[who], base="ledger_url").text

    def said_to(who: str) -> str | None:
        found: str | None = stack.readable(results[who], key=keys[who])["output_text"]
        return found

    assert said_to(user) == f"hello {secret}"
    assert f"I am {secret}" in timeline(user)
    row = stack.call(results[user], tenant, user)
    assert row["response_metadata_ref"]["boundary_id"] == "b07_p3_aisuite_chokepoint"

    said = json.loads(stack.cli("erase", "--tenant", tenant, "--user", user, "--json").stdout)
    assert said["keys"] == 1 and said["results"] == 1 and said["cached_answers"] == 2 and said["unencrypted"] == 0

    assert said_to(user) is None
    assert secret not in timeline(user)
    assert said_to(other) == f"hello {kept}"
    again = stack.run(
        "investigation",
        key=keys[user],
        request_id=results[user]["request_id"],
        prompt={
            "text": f"I am {secret}",
            "simulated_output_text": f"hello {secret}",
            "cache_enabled": True,
        },
    )
    assert again["task_id"] == results[user]["task_id"] and again["output_text"] is None
    stack.cli("ledger", "verify", "--history")
    stack.cli("ledger", "rebuild")
    assert said_to(user) is None

    word = f"later-{uuid4().hex}"
    later = stack.run(key=keys[user], prompt={"text": word, "simulated_output_text": word})
    stack.call(later, tenant, user)
    results[user] = later
    assert said_to(user) == word, "what comes after the erasure has a new key"
