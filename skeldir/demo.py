"""`make demo`: the whole system on embedded servers, every case of what it promises, shown as it happens.

Exit code 0 only if every check held. Leaves `artifacts/runtime_db_probe.json` and `artifacts/sql/*.csv`.
"""

from __future__ import annotations

import asyncio
import json
import os
import shlex
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import uuid4

import asyncpg
import httpx
from redis.asyncio import Redis
from rich.console import Console
from rich.markup import escape
from rich.rule import Rule

from skeldir.csv_table import show

ARTIFACTS = Path("artifacts")
START_S = 60.0
LEDGER_S = 10.0
# Short times, so that the story fits into a minute; all else is as it is by default.
SETTINGS = {
    "SKELDIR_BREAKER_OPEN_SECONDS": "2",
    "SKELDIR_PROVIDER_TIMEOUT_MS": "1000",
    "SKELDIR_LATE_RESULT_SECONDS": "5",
    **{f"SKELDIR_{name}_PORT": "0" for name in ("GATEWAY", "POLICY", "EXECUTOR", "LEDGER")},
}

Result = dict[str, Any]
console = Console(highlight=False)


class Story:
    """The running system, what was checked, and who took part."""

    def __init__(self, facts: dict[str, Any], environment: dict[str, str], http: httpx.AsyncClient, log: Redis) -> None:
        self.facts = facts
        self.environment = environment
        self.log = log
        self.failed: list[str] = []
        self.checked = 0
        self.tenant: str = facts["tenant_id"]
        self.users: list[str] = []
        self.request_ids: dict[str, list[str]] = {}
        self.case = ""
        self.key = ""
        self._http = http

    def user(self) -> str:
        """A user nobody has seen, so that one case does not touch another."""
        self.users.append(str(uuid4()))
        return self.users[-1]

    def check(self, what: str, held: bool, seen: object = "") -> None:
        """One promise: kept or not."""
        self.checked += 1
        mark = "[green]✓[/green]" if held else "[bold red]✗[/bold red]"
        console.print(f"  {mark} {what}" + ("" if held else f" [red]{escape(str(seen))}[/red]"))
        if not held:
            self.failed.append(f"{self.case}: {what} ({seen})")

    def open(self, case: str, sentence: str) -> None:
        """Begin a case."""
        self.case = case
        console.print()
        console.print(Rule(f"[bold]{case}[/bold]", align="left", style="dim"))
        console.print(f"[dim]{sentence}[/dim]")

    async def submit(self, task_type: str, user: str, *, tell: bool = True, **fields: Any) -> Result:
        """Submit a task over HTTP, wait for its end, and tell it."""
        request_id = fields.pop("request_id", f"demo-{uuid4().hex[:8]}")
        self.request_ids.setdefault(self.case, []).append(request_id)
        body = {"task_type": task_type, "user_id": user, "request_id": request_id, "prompt": fields.pop("prompt", {})}
        headers = {"Authorization": f"Bearer {self.key}", "Prefer": "wait=20"}
        reply = await self._http.post(f"{self.facts['gateway_url']}/v1/tasks", json={**body, **fields}, headers=headers)
        result: Result = reply.json()
        if reply.status_code != 200:
            return {**result, "status": f"HTTP {reply.status_code}"}
        if tell:
            _tell(result)
        return result

    async def cli(self, *arguments: str) -> str:
        """A `skeldir` command, as an operator types it."""
        console.print(f"  [dim]$ skeldir {escape(shlex.join(arguments))}[/dim]")
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "skeldir", *arguments,
            env=self.environment, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
        )  # fmt: skip
        out, err = await process.communicate()
        if process.returncode:
            self.check(f"skeldir {arguments[0]} succeeds", False, err.decode().strip() or out.decode().strip())
        return out.decode()

    async def rows(self, query: str, tenant: str | None, user: str | None) -> list[asyncpg.Record]:
        """A query as app_user, with the two settings local to its transaction."""
        connection = await asyncpg.connect(self.facts["database_url"])
        try:
            async with connection.transaction():
                for name, value in (("app.current_tenant_id", tenant), ("app.current_user_id", user)):
                    if value is not None:
                        await connection.execute("SELECT set_config($1, $2, true)", name, value)
                found: list[asyncpg.Record] = await connection.fetch(query)
                return found
        finally:
            await connection.close()

    async def row(self, result: Result, user: str) -> Any:
        """The ledger row of an ended task, once it is there."""
        query = f"SELECT * FROM llm_api_calls WHERE id = '{result['task_id']}' AND status <> 'pending'"  # noqa: S608
        deadline = time.monotonic() + LEDGER_S
        while time.monotonic() < deadline:
            if found := await self.rows(query, self.tenant, user):
                return found[0]
            await asyncio.sleep(0.05)
        return None


def _tell(result: Result) -> None:
    """One line about one task: what it was, what policy said, what it cost."""
    usage = result.get("usage", {})
    colour = {"success": "green", "blocked": "yellow", "failed": "red"}[result["status"]]
    why = (
        result.get("blocked_reason")
        or result.get("failure_reason")
        or ("from the cache" if result["was_cached"] else "")
    )
    cost = f"{usage.get('cost_cents', 0):g} ¢"
    text = escape((result.get("output_text") or "")[:40])
    kind, end = f"{result['task_type']:19}", f"[{colour}]{result['status']:7}[/{colour}]"
    line = f"  {kind} {end} {escape(why):30} [cyan]{cost:>5}[/cyan]  [dim]{text}[/dim]"
    console.print(line, no_wrap=True, overflow="ellipsis")


async def the_chain(story: Story) -> None:
    story.open("1  The chain", "Each task type goes through gateway, policy, executor and ledger, four processes.")
    user = story.user()
    for task_type in ("route", "explanation", "investigation", "budget_optimization"):
        prompt = {"text": f"a {task_type}", "simulated_cost_cents": 1.5, "simulated_output_text": f"{task_type} done"}
        result = await story.submit(task_type, user, prompt=prompt, max_cost_cents=5)
        row = await story.row(result, user)
        held = row is not None and (row["status"], row["provider"], row["provider_attempted"]) == (
            "success",
            "stub",
            True,
        )
        story.check(f"{task_type}: one ledger row, success, stub, attempted", held, row)
    story.open(
        "2  Materialisations", "A successful investigation and a budget optimisation each leave exactly one row."
    )
    investigations = await story.rows("SELECT query FROM investigations", story.tenant, user)
    jobs = await story.rows(
        "SELECT recommendations->>'request_id' AS r FROM budget_optimization_jobs", story.tenant, user
    )
    ids = story.request_ids["1  The chain"]
    story.check(
        "one investigations row", [row["query"] for row in investigations] == [f"provider:{ids[2]}"], investigations
    )
    story.check("one budget_optimization_jobs row", [row["r"] for row in jobs] == [ids[3]], jobs)


async def duplicates(story: Story) -> None:
    story.open("3  One request, one answer", "The same request id, twenty times at once while the first is in flight.")
    user = story.user()
    task = {"prompt": {"text": "once", "simulated_delay_ms": 300, "simulated_cost_cents": 1}, "request_id": "demo-once"}
    results = await asyncio.gather(*(story.submit("route", user, tell=False, **task) for _ in range(20)))
    _tell(results[0])
    story.check("20 submissions, one api_call_id", len({one["api_call_id"] for one in results}) == 1)
    await story.row(results[0], user)
    spent = await story.rows("SELECT count(*) AS n, sum(cost_cents) AS c FROM llm_api_calls", story.tenant, user)
    story.check("one row, paid once", (spent[0]["n"], spent[0]["c"]) == (1, 1), spent)
    other = {"prompt": {"text": "another body"}, "request_id": "demo-once"}
    conflict = await story.submit("route", user, tell=False, **other)
    story.check("another body under that id: 409", conflict["status"] == "HTTP 409", conflict)


async def cache(story: Story) -> None:
    story.open(
        "4  The cache", "The same question and watermark is answered once; another watermark or user asks again."
    )
    user, other = story.user(), story.user()

    def question(watermark: int) -> dict[str, Any]:
        prompt = {"text": "cached?", "cache_enabled": True, "cache_watermark": watermark, "simulated_cost_cents": 2}
        return {"prompt": prompt, "max_cost_cents": 2}

    first, second = [await story.submit("explanation", user, **question(7)) for _ in range(2)]
    story.check("the second is cached and costs nothing", second["was_cached"] and second["usage"]["cost_cents"] == 0)
    story.check("and is the same answer", second["output_text"] == first["output_text"])
    story.check("another watermark misses", not (await story.submit("explanation", user, **question(8)))["was_cached"])
    story.check("another user misses", not (await story.submit("explanation", other, **question(7)))["was_cached"])
    crowd = story.user()
    slow = question(1) | {"prompt": {**question(1)["prompt"], "simulated_delay_ms": 200}}
    results = await asyncio.gather(*(story.submit("explanation", crowd, tell=False, **slow) for _ in range(10)))
    story.check("ten identical at once: one call", sum(not one["was_cached"] for one in results) == 1)


async def breaker(story: Story) -> None:
    story.open("5  The breaker", "Three failures of a user open it for that user; after a while one probe may try.")
    user, other = story.user(), story.user()
    for _ in range(3):
        await story.submit("route", user, prompt={"text": "x", "raise_error": True})
    fourth = await story.submit("route", user, prompt={"text": "x"})
    story.check("the fourth is blocked: breaker_open", fourth.get("blocked_reason") == "breaker_open", fourth)
    story.check("no provider was attempted", not (await story.row(fourth, user))["provider_attempted"])
    story.check("another user is unaffected", (await story.submit("route", other, prompt={}))["status"] == "success")
    await asyncio.sleep(float(SETTINGS["SKELDIR_BREAKER_OPEN_SECONDS"]))  # the open time itself
    probe = {"prompt": {"text": "probe", "simulated_delay_ms": 200}}
    results = await asyncio.gather(*(story.submit("route", user, tell=False, **probe) for _ in range(10)))
    said = Counter(one["status"] for one in results)
    story.check("of ten at once exactly one probes", said == {"success": 1, "blocked": 9}, said)
    story.check("its success closes it", (await story.submit("route", user, prompt={}))["status"] == "success")
    burst = story.user()
    dead = {"prompt": {"text": "x", "raise_error": True, "simulated_delay_ms": 100}}
    results = await asyncio.gather(*(story.submit("route", burst, tell=False, **dead) for _ in range(12)))
    said = Counter(one["status"] for one in results)
    story.check("of twelve failing calls at once three go out", said == {"failed": 3, "blocked": 9}, said)


async def kill_switch(story: Story) -> None:
    story.open("6  The kill switch", "Engaged and released at run time; a task may also ask for its own stop.")
    user = story.user()
    await story.cli("kill-switch", "engage", "--tenant", story.tenant, "--user", user, "--reason", "runaway loop")
    blocked = await story.submit("route", user, prompt={"text": "x"})
    story.check("blocked: provider_kill_switch", blocked.get("blocked_reason") == "provider_kill_switch", blocked)
    row = await story.row(blocked, user)
    story.check("one persisted row, no attempt", row is not None and not row["provider_attempted"], row)
    await story.cli("kill-switch", "release", "--tenant", story.tenant, "--user", user, "--reason", "fixed")
    story.check("released without a restart", (await story.submit("route", user, prompt={}))["status"] == "success")
    order = {"type": "kill_switch.engaged", "scope": {"model": "stub:dear"}, "reason": "too dear", "actor": "finance"}
    await story.log.xadd("skeldir:control", {"data": json.dumps(order)})
    console.print('  [dim]$ XADD skeldir:control * data \'{"type": "kill_switch.engaged", ...}\'[/dim]')
    dear = await story.submit("route", user, prompt={"model": "stub:dear"})
    story.check("by XADD, for one model", dear.get("blocked_reason") == "provider_kill_switch", dear)
    await story.log.xadd("skeldir:control", {"data": json.dumps(order | {"type": "kill_switch.released"})})
    own = await story.submit("route", user, prompt={"kill_switch": True})
    story.check("the task's own flag", own.get("blocked_reason") == "provider_kill_switch", own)


async def limits(story: Story) -> None:
    story.open("7  Hourly shutoff", "By an operator, with a reason; and by itself, when the hour's threshold is spent.")
    user = story.user()
    who = ("--tenant", story.tenant, "--user", user)
    await story.cli("shutoff", "engage", *who, "--minutes", "30", "--reason", "card reported stolen")
    blocked = await story.submit("route", user, prompt={})
    story.check("blocked with the operator's reason", blocked.get("blocked_reason") == "card reported stolen", blocked)
    await story.cli("shutoff", "release", *who)
    spender = story.user()
    await story.cli("limits", "set", "--tenant", story.tenant, "--user", spender, "--hourly-cents", "3")
    task = {"prompt": {"text": "x", "simulated_cost_cents": 1}, "max_cost_cents": 1}
    results = await asyncio.gather(*(story.submit("route", spender, tell=False, **task) for _ in range(20)))
    said = Counter(one.get("blocked_reason") or one["status"] for one in results)
    story.check("20 at once under 3 cents: 3 go out", said == {"success": 3, "hourly_threshold_exceeded": 17}, said)
    late = await story.submit("route", spender, prompt={})
    story.check("then nothing until the hour ends", late.get("blocked_reason") == "hourly_threshold_exceeded", late)
    story.open("8  Monthly cap", "Reserved before the call, settled after it: exact with any number at once.")
    capped = story.user()
    await story.cli("limits", "set", "--tenant", story.tenant, "--user", capped, "--monthly-cents", "50")
    results = await asyncio.gather(*(story.submit("route", capped, tell=False, **task) for _ in range(200)))
    said = Counter(one.get("blocked_reason") or one["status"] for one in results)
    story.check(
        "200 at once under a cap for 50: 50 succeed", said == {"success": 50, "monthly_cap_exceeded": 150}, said
    )


async def failures(story: Story) -> None:
    story.open("9  Failures", "A time-out is money perhaps spent: its reservation stays until the late result says.")
    user = story.user()
    slow = {"text": "slow", "simulated_delay_ms": 1800, "simulated_cost_cents": 2}
    timeout = await story.submit("route", user, prompt=slow, max_cost_cents=4)
    story.check("failed: provider_timeout", timeout.get("failure_reason") == "provider_timeout", timeout)
    row = await story.row(timeout, user)
    story.check("with the latency that passed", row is not None and row["latency_ms"] >= 1000, row)
    error = await story.submit("route", user, prompt={"raise_error": "ConnectionError"})
    story.check("provider_error:<type>", error.get("failure_reason") == "provider_error:ConnectionError", error)
    deadline = time.monotonic() + LEDGER_S
    query = f"SELECT state, settled_cents FROM llm_budget_reservations WHERE api_call_id = '{timeout['task_id']}'"  # noqa: S608
    found: Any = None
    while time.monotonic() < deadline and (not found or found[0]["state"] != "settled"):
        await asyncio.sleep(0.1)
        found = await story.rows(query, story.tenant, user)
    story.check("the late result settles what was held", bool(found) and found[0]["settled_cents"] == 2, found)
    story.open("10 The stub", "The same prompt gives the same answer, tokens and cost.")
    same = [await story.submit("route", user, prompt={"text": "again"}) for _ in range(2)]
    story.check("deterministic", same[0]["output_text"] == same[1]["output_text"])


async def isolation(story: Story) -> None:
    story.open("11 Isolation", "As app_user, under row-level security: only the right tenant and user see a row.")
    user, wrong = story.users[0], str(uuid4())
    for what, tenant, who, sees in (
        ("the right pair sees its rows", story.tenant, user, True),
        ("a wrong user sees none", story.tenant, wrong, False),
        ("a wrong tenant sees none", wrong, user, False),
        ("no settings at all see none", None, None, False),
    ):
        rows = await story.rows("SELECT id FROM llm_api_calls", tenant, who)
        events = await story.rows("SELECT id FROM events", tenant, who)
        story.check(what, bool(rows) is sees and bool(events) is sees, (len(rows), len(events)))


async def inbox(story: Story) -> None:
    story.open("   Any language", "A task by XADD on the inbox, and one that is no task.")
    user = story.user()
    task = {"tenant_id": story.tenant, "user_id": user, "request_id": "demo-inbox", "task_type": "route", "prompt": {}}
    await story.log.xadd("skeldir:inbox", {"data": json.dumps(task)})
    await story.log.xadd("skeldir:inbox", {"data": json.dumps({**task, "tenant_id": "not a uuid"})})
    result = await story.submit("route", user, request_id="demo-inbox", prompt={})
    story.check("it is the same task as over HTTP, and ends as a row", await story.row(result, user) is not None)
    letters: list[Any] = json.loads(await story.cli("dead-letters", "list", "--json"))
    reasons = [letter["reason"] for letter in letters]
    story.check("the other is a dead letter with its reason", any("tenant_id" in reason for reason in reasons), reasons)


async def dashboards(story: Story) -> None:
    story.open("12 Dashboards", "Four views, under the reader's own row-level security, as CSV and as tables.")
    folder = ARTIFACTS / "sql"
    users = [argument for user in story.users for argument in ("--user", user)]
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "skeldir", "dashboards", "export", "--tenant", story.tenant, *users, "--out", str(folder),
        env=story.environment, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    out, err = await process.communicate()
    story.check("exported, headers and rows checked", process.returncode == 0, (err or out).decode())
    for file in sorted(folder.glob("*.csv")):
        show(file, console)


CASES: tuple[Callable[[Story], Awaitable[None]], ...] = (
    the_chain, duplicates, cache, breaker, kill_switch, limits, failures, isolation, inbox, dashboards,
)  # fmt: skip


async def tell(directory: Path, environment: dict[str, str]) -> int:
    """Start the system, go through all cases, stop it; the exit code."""
    started = datetime.now(UTC)
    ready = directory / "ready.json"
    with (directory / "up.log").open("wb") as log:
        up = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "skeldir", "up", "--data", str(directory / "data"), "--ready-file", str(ready),
            env=environment, stdout=log, stderr=log,
        )  # fmt: skip
    try:
        await _until_ready(up, ready, directory)
        facts = json.loads(ready.read_text())
        console.print(f"[bold]Skeldir[/bold] is up in {(datetime.now(UTC) - started).total_seconds():.1f} s: ", end="")
        console.print(", ".join(f"{name} (pid {pid})" for name, pid in facts["pids"].items()))
        async with httpx.AsyncClient(timeout=60, trust_env=False, limits=httpx.Limits(max_connections=250)) as http:
            log_server = Redis.from_url(facts["redis_url"])
            story = Story(facts, environment, http, log_server)
            key = json.loads(await story.cli("key", "create", "--tenant", story.tenant, "--role", "producer", "--json"))
            story.key = key["key"]
            for case in CASES:
                await case(story)
            await log_server.aclose()
    finally:
        if up.returncode is None:
            up.send_signal(signal.SIGINT)
            await up.wait()
    return _close(story, started)


async def _until_ready(up: asyncio.subprocess.Process, ready: Path, directory: Path) -> None:
    deadline = time.monotonic() + START_S
    while not await asyncio.to_thread(ready.exists):
        if up.returncode is not None or time.monotonic() > deadline:
            said = await asyncio.to_thread((directory / "up.log").read_text)
            raise SystemExit(f"skeldir up did not come up:\n{said}")
        await asyncio.sleep(0.05)


def _close(story: Story, started: datetime) -> int:
    """Write what was seen, and say how it went."""
    ended = datetime.now(UTC)
    probe = {
        "tenant_id": story.tenant,
        "user_ids": story.users,
        "request_ids": story.request_ids,
        "started_at": started.isoformat(),
        "ended_at": ended.isoformat(),
        "checks": story.checked,
        "failed": story.failed,
    }
    ARTIFACTS.mkdir(exist_ok=True)
    (ARTIFACTS / "runtime_db_probe.json").write_text(json.dumps(probe, indent=1) + "\n")
    story.open("13 Artifacts", f"{ARTIFACTS}/runtime_db_probe.json, {ARTIFACTS}/sql/*.csv")
    seconds = (ended - started).total_seconds()
    console.print()
    if story.failed:
        console.print(f"[bold red]{len(story.failed)} of {story.checked} checks failed[/bold red] in {seconds:.0f} s")
        for failure in story.failed:
            console.print(f"  {escape(failure)}")
        return 1
    console.print(f"[bold green]All {story.checked} checks held[/bold green] in {seconds:.0f} s")
    return 0


def main() -> None:
    """Run the demo in a directory of its own, which is removed afterwards."""
    directory = Path(tempfile.mkdtemp(prefix="skeldir-demo-"))
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("SKELDIR_", "OPENAI_"))}
    environment = {**clean, **SETTINGS, "SKELDIR_DATA_DIR": str(directory / "data")}
    try:
        code = asyncio.run(tell(directory, environment))
    finally:
        shutil.rmtree(directory, ignore_errors=True)
    sys.exit(code)


if __name__ == "__main__":
    main()
