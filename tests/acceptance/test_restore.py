"""Servers that are lost with their disks, while tasks are under way: the runbook brings them back from each other.

Its commands are run as they stand there; what must be so meanwhile and afterwards is looked at here.
"""

from __future__ import annotations

import os
import shutil
import signal
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx
import orjson
import psutil
import psycopg
import pytest
import redis
from psycopg import sql

from skeldir.embedded import EmbeddedPostgres, EmbeddedValkey
from skeldir.embedded.process import make_reachable, unprivileged_user
from tests.mock_provider import MockProvider, Reply
from tests.runbooks import FOLDER, Answer, Operator, walk
from tests.stack import Stack, eventually

FOLDS = ("llm_api_calls", "llm_budget_reservations", "kill_switches", "tenant_limits", "api_keys")


class Lossy:
    """`skeldir up` on servers of somebody's own, which are lost one after the other; and what was so before."""

    def __init__(self, new_folder: Callable[[], Path], provider: MockProvider) -> None:
        self.provider = provider
        self.start_log(new_folder)
        self.postgres = EmbeddedPostgres(new_folder())
        self.postgres.start()
        self.archive, self.copy = new_folder() / "archive", new_folder() / "copy"
        self.archive.mkdir()
        if unprivileged_user() >= 0:
            make_reachable(self.archive)
            os.chown(self.archive, unprivileged_user(), -1)
        settings = {
            "SKELDIR_REDIS_URL": self.log_url,
            "SKELDIR_DATABASE_URL": self.postgres.url("app_user"),
            "SKELDIR_LEDGER_DATABASE_URL": self.postgres.url("skeldir_ledger"),
            "SKELDIR_ADMIN_DATABASE_URL": self.postgres.url("postgres"),
            "SKELDIR_TRIM_KEEP_SECONDS": "3600",
            "SKELDIR_LEASE_TTL_MS": "500",
            "SKELDIR_PROVIDER_TIMEOUT_MS": "60000",
            "OPENAI_API_KEY": "sk-test",
            "OPENAI_BASE_URL": provider.url,
        }
        self.stack = Stack(new_folder(), settings).__enter__()
        self.bodies: dict[str, dict[str, Any]] = {}
        self.results: dict[str, dict[str, Any]] = {}
        self.expected: dict[str, Any] = {}
        self.before: dict[str, set[Any]] = {}
        self.stopped_key = ""
        self.pool = ThreadPoolExecutor(4)

    def close(self) -> None:
        self.stack.__exit__(None, None, None)
        self.postgres.stop()
        self.stop_log()
        self.pool.shutdown()

    # The log: one server.

    def start_log(self, new_folder: Callable[[], Path]) -> None:
        self.valkey = EmbeddedValkey(new_folder())
        self.valkey.start()
        self._write_as_others_do()

    def stop_log(self) -> None:
        self.valkey.stop()

    @property
    def log_url(self) -> str:
        return self.valkey.url("admin")

    def log(self) -> Any:
        return redis.Redis.from_url(self.log_url)

    def copy_log(self) -> None:
        """A copy of its files, to be started on later."""
        shutil.copytree(self.valkey._dir / "appendonlydir", self.copy)

    def replace_log(self, copy: Path | None) -> None:
        """kill -9 of the log's server; its disk is lost, or is that of an older copy."""
        os.kill(self.valkey.pid, signal.SIGKILL)
        files = self.valkey._dir / "appendonlydir"
        shutil.rmtree(files)
        if copy is not None:
            shutil.copytree(copy, files)
        self.valkey.start()
        self._write_as_others_do()

    def _write_as_others_do(self) -> None:
        """The embedded server's guardian syncs; a server of one's own does it by itself, which `doctor` asks for."""
        with self.log() as log:
            log.config_set("appendfsync", "everysec")

    # What there is.

    def submit(self, request_id: str, text: str, *, wait: str = "wait=30") -> httpx.Response:
        """A task of the mock provider's model, that a caller may submit again under the same id."""
        message = {"role": "user", "content": text}
        self.bodies[request_id] = {
            "task_type": "route",
            "request_id": request_id,
            "prompt": {"model": "openai:gpt-4o-mini", "max_tokens": 100, "messages": [message]},
        }
        return self.stack.post("/v1/tasks", self.bodies[request_id], Prefer=wait)

    def run(self, request_id: str) -> None:
        """One that is answered, and settled in the books."""
        result = self.submit(request_id, request_id).json()
        assert result["status"] == "success", result
        self.stack.call(result)
        self.results[request_id] = result

    def calls(self) -> Counter[str]:
        """How often the provider was asked what."""
        return Counter(one.body["messages"][0]["content"] for one in self.provider.calls)

    def policy(self) -> dict[str, Any]:
        """Policy's accounts and reservations, without what no event says (`skeldir/restoring/accounts.py`)."""
        found: dict[str, Any] = {}
        with self.log() as log:
            for key in log.scan_iter(match="{skeldir:*}:account:*"):
                account = orjson.loads(log.get(key) or b"")
                account["breaker"] |= {"proven": 0, "probes": 0}
                found[key.decode()] = account
            for key in log.scan_iter(match="{skeldir:*}:reservations"):
                found |= {one.decode(): orjson.loads(stored) for one, stored in log.hgetall(key).items()}
        return found

    def books(self) -> dict[str, set[Any]]:
        """All rows of some tables, and the events by what they say."""
        with psycopg.connect(self.postgres.url("postgres")) as connection:
            rows = {name: sql.SQL("SELECT t::text FROM {} AS t").format(sql.Identifier(name)) for name in FOLDS}
            found = {name: set(connection.execute(query)) for name, query in rows.items()}
            found["events"] = set(connection.execute("SELECT id, body FROM events"))
        return found

    def in_books(self, event_type: str, request_id: str) -> None:
        """Wait until an event about the request is in the books."""
        query = f"SELECT FROM events WHERE type = '{event_type}' AND body::json->'data'->'task'->>'request_id' = %s"
        with psycopg.connect(self.postgres.url("postgres"), autocommit=True) as connection:
            eventually(
                lambda: connection.execute(query.encode(), (request_id,)).fetchone() is not None,
                f"{event_type} of {request_id}",
            )

    # What happens to it.

    def kill_services(self) -> None:
        """As when a machine is gone: no process has a moment to say anything."""
        family = psutil.Process(self.stack.ready["supervisor_pid"]).children(recursive=True)
        self.stack.kill()
        for one in family:
            one.kill()
        psutil.wait_procs(family, timeout=10)

    def lose_database(self) -> None:
        os.kill(self.postgres.pid, signal.SIGKILL)
        self.postgres.stop()
        shutil.rmtree(self.postgres._data)


@pytest.fixture(scope="module")
def lossy(new_folder: Callable[[], Path]) -> Iterator[Lossy]:
    with MockProvider() as provider:
        found = Lossy(new_folder, provider)
        try:
            yield found
        finally:
            found.close()


class Restorer(Operator):
    """Who restores, by the runbook."""

    def __init__(self, lossy: Lossy, folder: Path) -> None:
        self.lossy = lossy
        owner = str(unprivileged_user()) if unprivileged_user() >= 0 else str(os.geteuid())
        super().__init__(
            lossy.stack,
            folder,
            {"start": self._start, "stop": self._stop, "restart": self._restart},
            PGDATA=str(lossy.postgres._data),
            PGOWNER=owner,
            ARCHIVE=str(lossy.archive),
            BASE=str(folder / "base"),
        )

    def _start(self, arguments: list[str], environment: dict[str, str], folder: Path) -> Answer:
        match arguments:
            case ["services"]:
                if self.lossy.expected:
                    assert self.lossy.policy() == self.lossy.expected, "policy's state is what it was"
                self.lossy.expected = {}
                self.stack.start()
            case ["postgres"]:
                self.lossy.postgres.start()
        return 0, "", ""

    def _stop(self, arguments: list[str], environment: dict[str, str], folder: Path) -> Answer:
        match arguments:
            case ["services"]:
                self.stack.stop()
            case ["postgres"]:
                self.lossy.postgres.stop()
        return 0, "", ""

    def _restart(self, arguments: list[str], environment: dict[str, str], folder: Path) -> Answer:
        self._stop(arguments, environment, folder)
        return self._start(arguments, environment, folder)

    def bring_about(self, what: str) -> None:
        match what:
            case "the log's server is lost with its disk":
                lose_the_log(self.lossy)
            case "the log's server was started on an older copy of its files":
                nothing_is_called_again(self.lossy)
                start_on_an_older_copy(self.lossy)
            case "the database's server is lost with its disk":
                nothing_is_called_again(self.lossy)
                lose_the_books(self.lossy)
            case "somebody has deleted events by hand, and the moment before it is known":
                self.shell.run(f"MOMENT='{spoil_the_books(self.lossy)}'")
            case _:
                raise AssertionError(f"nothing here brings about that {what}")


def lose_the_log(lossy: Lossy) -> None:
    """With one task that is being called, one that is not decided, orders that hold; and a service is started on it."""
    stack, tenant, user = lossy.stack, lossy.stack.ready["tenant_id"], str(uuid4())
    lossy.stopped_key = stack.key(tenant, user)
    stack.cli("kill-switch", "engage", "--tenant", tenant, "--user", user, "--reason", "theirs")
    stack.order("limits", "set", "--tenant", tenant, "--calls", "100", "--per", "month")
    for number in range(3):
        lossy.run(f"before {number}")
    lossy.provider.script(Reply(delay_s=300))
    waiting = lossy.pool.submit(lossy.submit, "called", "called", wait="wait=60")
    lossy.in_books("attempt.started", "called")
    lossy.copy_log()
    lossy.run("after the copy")
    os.kill(stack.pid("policy"), signal.SIGSTOP)
    assert lossy.submit("undecided", "undecided", wait="").status_code == 202
    lossy.in_books("task.submitted", "undecided")
    lossy.expected = lossy.policy()
    assert any(one.get("state") == "live" for one in lossy.expected.values())
    lossy.kill_services()
    _forget(waiting)
    lossy.replace_log(None)
    said = stack.refused("up", "--data", str(stack.data))
    assert "skeldir restore log" in said and "restore.md" in said
    with lossy.log() as log:
        assert not log.exists("skeldir:control"), "nothing was written on the new log"


def _forget(waiting: Future[httpx.Response]) -> None:
    """Its gateway is gone."""
    with pytest.raises(httpx.HTTPError):
        waiting.result(60)


def nothing_is_called_again(lossy: Lossy) -> None:
    """What had ended is answered as it was, what had not has ended; orders and limits hold; work goes on."""
    stack, before = lossy.stack, lossy.calls()
    for request_id, result in lossy.results.items():
        again = stack.post("/v1/tasks", lossy.bodies[request_id], Prefer="wait=30").json()
        assert (again["status"], again["output_text"]) == ("success", result["output_text"])
    called, undecided = (
        stack.post("/v1/tasks", lossy.bodies[name], Prefer="wait=30").json() for name in ("called", "undecided")
    )
    assert (called["status"], called["failure_reason"], called["provider_attempted"]) == ("failed", "log_lost", True)
    assert (undecided["status"], undecided["blocked_reason"]) == ("blocked", "log_lost")
    assert lossy.calls() == before
    assert set(before.values()) == {1} and "undecided" not in before
    assert stack.run(key=lossy.stopped_key)["blocked_reason"] == "provider_kill_switch"
    lossy.run(f"goes on {uuid4()}")
    tenant = stack.ready["tenant_id"]
    shown = orjson.loads(stack.cli("limits", "show", "--tenant", tenant, "--json").stdout)
    (quota,) = shown["quotas"]
    charged = sum(one.reply.charged for one in lossy.provider.calls)
    assert int(quota["spent"]) + int(quota["held"]) == charged, "what the quota has counted is what was called"


def start_on_an_older_copy(lossy: Lossy) -> None:
    """From when the call was under way: an executor on it would take the decision up, and call once more."""
    lossy.expected = lossy.policy()
    lossy.kill_services()
    lossy.replace_log(lossy.copy)


def lose_the_books(lossy: Lossy) -> None:
    """What came after the base backup is in the archive, and what came last in neither; work goes on without them."""
    lossy.run("archived")
    with psycopg.connect(lossy.postgres.url("postgres"), autocommit=True) as connection:
        (segment,) = connection.execute("SELECT pg_walfile_name(pg_switch_wal())").fetchone() or ("",)
    eventually(lambda: (lossy.archive / segment).exists(), "the piece is in the archive")
    lossy.run("not archived")
    lossy.before = lossy.books()
    lossy.lose_database()
    result = lossy.submit("without books", "without books").json()
    assert result["status"] == "success"
    lossy.results["without books"] = result


def spoil_the_books(lossy: Lossy) -> str:
    """All events go, by a superuser whom no trigger stops. The moment before that."""
    lossy.run("before the mistake")
    with psycopg.connect(lossy.postgres.url("postgres"), autocommit=True) as connection:
        for name, rows in lossy.books().items():
            lossy.before[name] |= rows
        (moment,) = connection.execute("SELECT now()::text").fetchone() or ("",)
        connection.execute("SET session_replication_role = replica")
        assert connection.execute("DELETE FROM events").rowcount > 0
    lossy.run("after the mistake")
    return str(moment)


@pytest.mark.timeout(450)
def test_what_is_lost_comes_back_and_nothing_is_called_twice(lossy: Lossy, new_folder: Callable[[], Path]) -> None:
    restorer = Restorer(lossy, new_folder())
    with restorer.shell as shell:
        assert walk(shell, FOLDER / "restore.md", restorer.bring_about) > 20
    lossy.in_books("reservation.ended", "without books")
    lossy.in_books("reservation.ended", "after the mistake")
    after = lossy.books()
    for name, rows in lossy.before.items():
        assert rows <= after[name], name
    nothing_is_called_again(lossy)
