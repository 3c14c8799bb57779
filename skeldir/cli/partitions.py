"""`partitions show` and `partitions grow`: how many partitions the log has, and more of them."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated, Any

import typer
from redis.asyncio import Redis
from rich.table import Table

from shared.partitions import Partition
from shared.settings import Settings
from shared.streams.partition_count import Count, count_of, look
from skeldir.cli.context import CommandError, Json, actor, err, out, print_json, with_redis
from skeldir.growing.conditions import CannotGrow
from skeldir.growing.growth import Grown, NotDrained, abandon, grow

app = typer.Typer(help="How many partitions the log has.", no_args_is_help=True)

STEPS = {
    "copied ahead": "copied, while the system goes on",
    "closed": "closed: gateways let new tasks wait",
    "drained": "drained: all that was accepted has its end, and is in the books",
    "seized": "policy stands still",
    "copied": "copied what had changed meanwhile",
    "switched": "switched: the log has grown",
    "opened": "opened: new tasks are taken",
    "cleared": "cleared: what was left of it in the old places",
}


@app.command("show")
def show(as_json: Json = False) -> None:
    """How many there are, whether they take tasks, and who decides them."""
    count, rows = with_redis(_shown)
    if as_json:
        print_json({"partitions": count.number, "before": count.before, "each": rows})
        return
    table = Table("partition", "takes tasks", "policy")
    for row in rows:
        table.add_row(str(row["partition"]), row["door"], row["policy"])
    out.print(table)
    before = f"; before: {', '.join(map(str, count.before))}" if count.before else ""
    out.print(f"{count.number} partitions{before}")


async def _shown(redis: Redis, settings: Settings) -> tuple[Count, list[dict[str, Any]]]:
    await look(redis, settings)
    count = await count_of(redis)
    if count is None:
        raise CommandError("the log is new: the first service on it says how many partitions it has")
    rows = []
    for one in map(Partition, range(count.number)):
        fence = (await redis.get(one.fence) or b"").decode()
        owner = (await redis.hget(one.lease("policy"), "owner") or b"nobody").decode()
        door = "no: it is closed" if fence == "closed" else "yes" if fence else "yes, none came yet"
        rows.append({"partition": one.number, "door": door, "policy": owner})
    return count, rows


@app.command("grow")
def grow_(
    number: Annotated[
        int | None, typer.Argument(help="How many there are to be: a multiple of how many there are.")
    ] = None,
    timeout: Annotated[
        float, typer.Option(min=1, max=3600, help="Seconds in which what was accepted must come to its end.")
    ] = 60.0,
    abort: Annotated[bool, typer.Option("--abort", help="Take back what a run that died has left.")] = False,
    as_json: Json = False,
) -> None:
    """Grow the log while the system runs. Needs Redis's user `admin`. Exit 1 where it was not drained in time."""
    if abort == (number is not None):
        raise CommandError("give the number of partitions that there are to be, or --abort")
    if number is None:
        left = with_redis(_abandon)
        out.print(f"{left} partitions, as before; nothing is left of the copies")
        return

    def say(step: str) -> None:
        if step in STEPS and not as_json:
            out.print(f"[dim]{STEPS[step]}[/dim]", soft_wrap=True)

    async def work(redis: Redis, settings: Settings) -> Grown:
        await look(redis, settings)
        return await grow(redis, number, actor(), timeout, say)

    try:
        done = with_redis(work)
    except CannotGrow as error:
        raise CommandError(str(error)) from error
    except NotDrained as error:
        err.print(
            f"not drained in {timeout:g} s: {error}. Nothing has changed, and tasks are taken again", soft_wrap=True
        )
        raise typer.Exit(1) from error
    if as_json:
        print_json(asdict(done))
        return
    _print(done)


def _print(done: Grown) -> None:
    if done.number == done.before or not done.closed_s:
        out.print(f"the log has {done.number} partitions already; {done.removed} old copies removed", soft_wrap=True)
        return
    moved = done.copied
    out.print(
        f"{done.before} -> {done.number} partitions: {moved.accounts} accounts, {moved.tasks} tasks and "
        f"{moved.reservations} reservations moved; new tasks waited {done.closed_s:.1f} s",
        soft_wrap=True,
    )
    for one in done.waiting:
        out.print(f"[yellow]{one} has taken it up: see `skeldir doctor`[/yellow]", soft_wrap=True)


async def _abandon(redis: Redis, settings: Settings) -> int:
    try:
        return await abandon(redis)
    except CannotGrow as error:
        raise CommandError(str(error)) from error
