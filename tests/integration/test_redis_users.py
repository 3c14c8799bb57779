"""No role can take back what is in the log, not even in streams and keys that it writes to."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from redis.asyncio import Redis
from redis.exceptions import NoPermissionError

TASKS, DECISIONS, OUTCOMES = "{skeldir:0}:tasks", "{skeldir:0}:decisions", "{skeldir:0}:outcomes"
POLICY, ACCOUNT, TASK = "{skeldir:0}:policy", "{skeldir:0}:account:t:*", "{skeldir:0}:task:t"
CHUNKS = "{skeldir:0}:chunks:t"
REPLIES = "skeldir:replies:t:name"
PROVIDER_BREAKERS = "{skeldir:control}:provider-breakers"
CONTROL, INBOX, DEAD_LETTERS = "skeldir:control", "skeldir:inbox", "skeldir:dead-letters"


@pytest.mark.parametrize(
    ("role", "command"),
    [
        # Orders stay: who could delete one could release a kill switch without a trace.
        ("operator", ("XDEL", CONTROL, "1-1")),
        ("gateway", ("XDEL", CONTROL, "1-1")),
        ("gateway", ("PEXPIRE", CONTROL, "1")),
        ("operator", ("XDEL", INBOX, "1-1")),
        ("operator", ("XADD", DEAD_LETTERS, "*", "data", "{}")),
        # An accepted task stays.
        ("gateway", ("XDEL", TASKS, "1-1")),
        ("gateway", ("PEXPIRE", TASKS, "1")),
        # An attempt that was recorded stays: money may have been spent on it.
        ("executor", ("DEL", OUTCOMES)),
        ("executor", ("SET", OUTCOMES, "x")),
        ("executor", ("PEXPIRE", OUTCOMES, "1")),
        ("executor", ("DEL", TASK)),
        # A decision and the budget stay, also before the one who writes them.
        ("policy", ("SET", DECISIONS, "x")),
        ("policy", ("PEXPIRE", DECISIONS, "1")),
        ("policy", ("PEXPIRE", POLICY, "1")),
        ("policy", ("PEXPIRE", ACCOUNT, "1")),
        # Orders come from operators, and how breakers stand from policy; neither takes one back.
        ("policy", ("XDEL", CONTROL, "1-1")),
        ("policy", ("PEXPIRE", PROVIDER_BREAKERS, "1")),
        ("executor", ("XADD", CONTROL, "*", "data", "{}")),
        ("ledger", ("XADD", CONTROL, "*", "data", "{}")),
        # Pieces of answers come from the executor alone, and go to gateways alone.
        ("gateway", ("SPUBLISH", CHUNKS, "x")),
        ("policy", ("SPUBLISH", CHUNKS, "x")),
        ("executor", ("SSUBSCRIBE", CHUNKS)),
        ("ledger", ("SSUBSCRIBE", CHUNKS)),
        ("executor", ("SPUBLISH", "elsewhere", "x")),
        # Results are written by the gateway, on reply streams alone; producers read those and nothing else.
        ("gateway", ("XADD", "skeldir:elsewhere", "*", "data", "{}")),
        ("gateway", ("XADD", OUTCOMES, "*", "data", "{}")),
        ("producer", ("XADD", REPLIES, "*", "data", "{}")),
        ("producer", ("XRANGE", INBOX, "-", "+")),
        ("producer", ("XRANGE", OUTCOMES, "-", "+")),
        ("executor", ("XADD", REPLIES, "*", "data", "{}")),
        ("ledger", ("XTRIM", CONTROL, "MAXLEN", "0")),
        ("ledger", ("XTRIM", DEAD_LETTERS, "MAXLEN", "0")),
    ],
)
async def test_what_is_in_the_log_cannot_be_taken_back(
    role: str, command: tuple[str, ...], redis_as: Callable[[str], Redis]
) -> None:
    with pytest.raises(NoPermissionError):
        await redis_as(role).execute_command(*command)


SERVICES = ("gateway", "policy", "executor", "ledger")


@pytest.mark.parametrize("role", [*SERVICES, "producer", "operator"])
@pytest.mark.parametrize(
    "command",
    [
        ("FLUSHALL",), ("FLUSHDB",), ("CONFIG", "GET", "*"), ("CONFIG", "SET", "appendonly", "no"), ("KEYS", "*"),
        ("SCAN", "0"), ("ACL", "LIST"), ("ACL", "SETUSER", "eve"), ("CLIENT", "KILL", "ID", "1"), ("MONITOR",),
        ("SCRIPT", "FLUSH"), ("FUNCTION", "LIST"), ("REPLICAOF", "NO", "ONE"), ("BGREWRITEAOF",),
        ("RENAME", TASKS, "x"),
    ],
    ids=lambda command: " ".join(command[:2]),
)  # fmt: skip
async def test_nobody_administers_the_server(
    role: str, command: tuple[str, ...], redis_as: Callable[[str], Redis]
) -> None:
    with pytest.raises(NoPermissionError):
        await redis_as(role).execute_command(*command)


@pytest.mark.parametrize(
    ("role", "command"),
    [
        # Who does not decide does not see what others have left to spend.
        ("gateway", ("GET", ACCOUNT)),
        ("executor", ("GET", ACCOUNT)),
        ("ledger", ("GET", ACCOUNT)),
        ("executor", ("HGETALL", "{skeldir:0}:reservations")),
        # Prompts: only who needs them. An executor has those that were allowed.
        ("executor", ("XRANGE", TASKS, "-", "+")),
        ("executor", ("XRANGE", INBOX, "-", "+")),
        ("policy", ("XRANGE", INBOX, "-", "+")),
        ("producer", ("XRANGE", TASKS, "-", "+")),
        ("producer", ("HGETALL", TASK)),
        # Cached answers belong to executors.
        ("gateway", ("HGETALL", "{skeldir:0}:cache:k")),
        ("policy", ("HGETALL", "{skeldir:0}:cache:k")),
        ("ledger", ("HGETALL", "{skeldir:0}:cache:k")),
        # Orders name keys by their hashes: no business of who only hands in tasks.
        ("producer", ("XRANGE", CONTROL, "-", "+")),
        ("producer", ("XRANGE", DEAD_LETTERS, "-", "+")),
        # How far the books go is the ledger's to say: policy begins on a new log at that word.
        ("policy", ("HSET", "{skeldir:0}:ledger", "tasks", "0-0")),
        ("gateway", ("HSET", "{skeldir:0}:ledger", "tasks", "0-0")),
        ("executor", ("HSET", "{skeldir:0}:ledger", "tasks", "0-0")),
        ("operator", ("HSET", "{skeldir:0}:ledger", "tasks", "0-0")),
        # And nobody but policy says what policy has read.
        ("ledger", ("HSET", POLICY, "tasks", "0-0")),
        ("operator", ("HSET", POLICY, "tasks", "0-0")),
        ("executor", ("HSET", POLICY, "tasks", "0-0")),
        # A lease is its own service's.
        ("executor", ("HSET", "{skeldir:0}:lease:policy", "token", "9")),
        ("ledger", ("HSET", "{skeldir:0}:lease:policy", "token", "9")),
        ("policy", ("HSET", "{skeldir:0}:lease:ledger", "token", "9")),
    ],
)
async def test_nobody_sees_or_says_what_is_not_theirs(
    role: str, command: tuple[str, ...], redis_as: Callable[[str], Redis]
) -> None:
    with pytest.raises(NoPermissionError):
        await redis_as(role).execute_command(*command)


async def test_the_executor_may_count_lost_attempts(redis_as: Callable[[str], Redis]) -> None:
    """`finish.lua` does, for a task that is safe to retry."""
    record = "{skeldir:0}:task:lost-attempts"
    assert await redis_as("executor").execute_command("HINCRBY", record, "lost", 1) == 1
    await redis_as("admin").delete(record)
