"""While orders cannot be read no key can be checked: a revoked one would go on working."""

from __future__ import annotations

from tests.integration.gateway.conftest import Bench, eventually

TASK = {"task_type": "route", "prompt": {}}


async def test_nobody_is_let_in_while_the_control_stream_is_not_read(bench: Bench) -> None:
    async with bench.gateway(control_staleness_ms=500) as gateway:
        key, operator = await bench.key(gateway), await bench.key(gateway, "operator")
        await gateway.stop_workers()

        async def refused() -> bool:
            return (await gateway.get("/v1/models", key)).status_code == 503

        await eventually(refused, "a refusal")
        order = {"type": "kill_switch.engaged", "scope": {}, "reason": "test", "actor": "test"}
        for reply in (
            await gateway.post("/v1/tasks", TASK, key),
            await gateway.post("/v1/tasks", TASK, "guess"),
            await gateway.post("/v1/control", order, operator),
        ):
            assert (reply.status_code, reply.json()["code"]) == (503, "control_stale")
            assert reply.headers["retry-after"] == "1"
        assert (await gateway.client.get("/readyz")).status_code == 503
        assert (await gateway.client.get("/healthz")).status_code == 200
