"""The gateway service."""

from __future__ import annotations

import os
import secrets
from functools import partial

from fastapi import FastAPI
from redis.asyncio import Redis

from services.gateway.acceptance import Acceptor
from services.gateway.app import application
from services.gateway.auth import Doorkeeper
from services.gateway.capacity import Capacity
from services.gateway.door import PATIENCE_S, Door
from services.gateway.group_reader import GroupReader
from services.gateway.history import History
from services.gateway.inbox import Inbox, check_order
from services.gateway.listening import Listening
from services.gateway.recognition import Recognition
from services.gateway.replies import Replies
from services.gateway.results import Results
from shared.clock import ServerClock
from shared.partitions import CONTROL, INBOX
from shared.service import Leave, Worker, run
from shared.settings import Settings
from shared.streams.connection import connect
from shared.streams.control_reader import ControlReader
from shared.streams.growing import Partitions
from shared.texts.master_key import read_master_keys
from shared.token_keys import token_keys

# Who waits for a result is told in time that it is pending, before its connection is closed.
LAST_ANSWERS_S = 1.0


async def serve(settings: Settings) -> None:
    """Keep the doors until stopped."""
    assert settings.redis_url is not None, "the command line checks that"
    name = f"gateway-{os.getpid()}-{secrets.token_hex(4)}"
    redis = connect(settings.redis_url, client_name=name, min_replicas=settings.min_replicas)
    masters = read_master_keys(settings.master_key_file, settings.master_key_command)
    history = History(settings.database_url, masters, settings.database_pooler)
    app, workers, leave = compose(redis, history, name, settings)
    try:
        await run("gateway", app, settings.gateway_host, settings.gateway_port, workers, settings, leave)
    finally:
        await history.close()
        await redis.aclose()


def compose(
    redis: Redis, history: History, name: str, settings: Settings, patience_s: float = PATIENCE_S
) -> tuple[FastAPI, list[Worker], Leave]:
    """The application, what must run beside it, and what is to be called when it is about to stop.

    `name` is this gateway's alone, also after it has died. `patience_s`: how long requests wait for a closed partition.
    """
    clock, control = ServerClock(), ControlReader(redis, settings.control_staleness_ms)
    partitions = Partitions(settings.partitions)
    partitions.listen(control)
    acceptor, results = Acceptor(redis, Recognition(history), partitions, settings), Results(redis, partitions)
    capacity, tokens = Capacity(redis), token_keys(settings)
    keeper = Doorkeeper(control, clock, settings.rate_limit_per_second, tokens)
    listening = Listening(redis, partitions, name)
    door = Door(keeper, acceptor, capacity, results, listening, history, clock, settings, patience_s)
    inbox = GroupReader(
        redis, INBOX, "gateway", name, Inbox(acceptor, capacity, control, clock, settings).take, settings, removes=True
    )
    orders = GroupReader(redis, CONTROL, "control-check", name, check_order, settings, removes=False)

    def readiness() -> dict[str, str | None]:
        return {
            "control": "the control stream cannot be read" if control.is_stale else None,
            "inbox": inbox.problem,
            "orders": orders.problem,
            "memory": capacity.problem,
            "streams": listening.problem,
            **{f"partition {number}": problem for number, problem in results.problems.items()},
        }

    workers: list[Worker] = [
        # Without orders no door opens and no key is known: so nothing is done by a clock that is not known yet.
        clock.first(control.follow),
        partial(clock.follow, redis),
        capacity.follow,
        listening.follow,
        clock.first(inbox.run),
        orders.run,
        partial(partitions.follow, redis),
        results.follow,
        Replies(redis, name, partitions, settings).run,
    ]
    if tokens is not None:
        workers.append(tokens.follow)
    waits_s = max(0.0, settings.drain_seconds - LAST_ANSWERS_S)
    return application(door, redis, readiness), workers, partial(results.wind_up, waits_s)
