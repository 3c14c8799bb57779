"""`make bench`: all measurements in one run, as one table and as `artifacts/bench.json`.

`--short` takes the services alone and the chain, in small, and compares what CPU a service takes beside its limit,
measured in turns with it, with what is committed (`baseline.json`; `--keep` writes it anew). CPU hardly depends on what
else the machine does; still, only what falls below `TOLERATED` of the committed ratio is called slower.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import platform
from collections.abc import Callable, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path

from rich.console import Console
from rich.table import Table

from tests.bench import (
    alone,
    chain,
    commands,
    door,
    durability,
    first_byte,
    flood,
    growth,
    limits,
    purges,
    recovery,
    scale_out,
    stops,
)
from tests.bench.figures import Figure

Measurement = Callable[[], list[Figure]]
ALL: dict[str, Measurement] = {
    "alone": alone.measure,
    "chain": chain.measure,
    "door": door.measure,
    "growth": growth.measure,
    "scale_out": scale_out.measure,
    "recovery": recovery.measure,
    "stops": lambda: asyncio.run(stops.measure()),
    "limits": limits.measure,
    "purges": purges.measure,
    "durability": lambda: asyncio.run(durability.measure()),
    "flood": flood.measure,
    "first_byte": first_byte.measure,
    "commands": commands.measure,
}
SHORT: dict[str, Measurement] = {
    "alone": partial(alone.measure, tasks=2000),
    "chain": partial(chain.measure, tasks=400, at_once=(64,)),
}
BASELINE = Path(__file__).with_name("baseline.json")
TOLERATED = 0.65
"""Between runs on a busy machine, ratios were seen to move by a quarter."""


def main() -> None:
    """Measure, print, keep."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench", description="Measure, beside the limits.")
    parser.add_argument("--only", nargs="+", choices=ALL, help="these measurements")
    parser.add_argument("--short", action="store_true", help="small, and compared with the committed ratios")
    parser.add_argument("--keep", action="store_true", help="with --short: commit to the ratios of this run")
    parser.add_argument("--json", type=Path, default=Path("artifacts/bench.json"), help="where the figures go")
    asked = parser.parse_args()
    wanted = SHORT if asked.short else ALL
    console = Console(width=180)
    found: dict[str, list[Figure]] = {}
    for name in asked.only or wanted:
        found[name] = wanted[name]()
        console.print(_table(name, found[name]))
    machine = f"{os.cpu_count()} processors, {platform.machine()}, load {os.getloadavg()[1]:.1f} (5 minutes)"
    console.print(machine)
    asked.json.parent.mkdir(parents=True, exist_ok=True)
    figures = {name: [asdict(figure) for figure in of] for name, of in found.items()}
    asked.json.write_text(json.dumps({"machine": machine, "figures": figures}, indent=1) + "\n")
    if asked.short:
        ratios = {
            figure.what: figure.ratio.median
            for of in found.values()
            for figure in of
            if figure.ratio and figure.limit.startswith("CPU")
        }
        if asked.keep:
            BASELINE.write_text(json.dumps({what: round(of, 4) for what, of in ratios.items()}, indent=1) + "\n")
        for line in compared(ratios, json.loads(BASELINE.read_text())):
            console.print(line)


def compared(ratios: dict[str, float], committed: dict[str, float]) -> Sequence[str]:
    """What is slower than it was, each in a line; or that nothing is."""
    slower = [
        f"SLOWER {what}: {ratios[what]:.3f} of its limit, was {before:.3f}"
        for what, before in committed.items()
        if what in ratios and ratios[what] < TOLERATED * before
    ]
    known = sum(what in ratios for what in committed)
    return slower or [f"none of {known} ratios is below {TOLERATED:.0%} of the committed one"]


def _table(name: str, figures: Sequence[Figure]) -> Table:
    table = Table(name, "result: median (least to most)", "of its limit", width=178)
    for figure in figures:
        beside = f"{figure.ratio.of('.3f')} of {figure.limit}" if figure.ratio else ""
        table.add_row(figure.what, figure.value, beside)
    return table


if __name__ == "__main__":
    main()
