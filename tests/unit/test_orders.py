"""Orders that say too little, too much, or two things at once: refused, with what to do, before they are recorded."""

from __future__ import annotations

from typing import Any

import orjson
import pytest

from shared.events.control import InvalidControl, parse_control

TENANT, USER = "11111111-1111-4111-8111-111111111111", "aaaaaaaa-aaaa-4aaa-8aaa-aaaaaaaaaaaa"
WHOLE = {"tenant_id": TENANT, "user_id": USER}


@pytest.mark.parametrize(
    ("kind", "fields", "said"),
    [
        ("shutoff.engaged", {"scope": {"tenant_id": TENANT}}, "give tenant_id and user_id"),
        ("shutoff.engaged", {"scope": {**WHOLE, "provider": "openai"}}, "do not apply"),
        ("shutoff.released", {"scope": {**WHOLE, "task_type": "route"}}, "do not apply"),
        ("shutoff.engaged", {"scope": WHOLE, "minutes": 5, "until": "2027-01-01T00:00:00Z"}, "not both"),
        ("limits.set", {"scope": {}, "hourly_cents": 1}, "give tenant_id"),
        ("limits.set", {"scope": {**WHOLE, "model": "m"}, "hourly_cents": 1}, "do not apply"),
        ("limits.set", {"scope": WHOLE}, "give at least one of"),
        ("price.set", {"scope": {"provider": "openai"}}, "give provider and model"),
        ("price.set", {"scope": {"provider": "openai", "model": "m", **WHOLE}}, "do not apply"),
        ("cache.purged", {"scope": {}}, "give tenant_id"),
        ("cache.purged", {"scope": {"tenant_id": TENANT, "model": "openai:m"}}, "nothing of the model"),
        ("texts.erased", {"scope": {"tenant_id": TENANT}}, "give tenant_id and user_id"),
        ("texts.erased", {"scope": {**WHOLE, "provider": "openai"}}, "do not apply"),
        ("kill_switch.engaged", {"scope": {"tenant": TENANT, "tenant_id": TENANT}}, "not both"),
        ("kill_switch.engaged", {"scope": {"user_id": USER}}, "within a tenant"),
        ("kill_switch.engaged", {"scope": {"provider": "openai", "model": "gemini:m"}}, "conflicting scopes"),
    ],
)
def test_it_is_refused_with_what_to_do(kind: str, fields: dict[str, Any], said: str) -> None:
    with pytest.raises(InvalidControl, match=said):
        parse_control(orjson.dumps({"type": kind, "actor": "ann", "reason": "r", **fields}))
