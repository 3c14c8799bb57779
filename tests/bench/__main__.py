"""`make bench`: all measurements, one after another, as one table."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from rich.console import Console
from rich.table import Table

from tests.bench import chain, commands, durability, first_byte, flood, limits, purges, stops
from tests.bench.figures import Figure

MEASUREMENTS: tuple[Callable[[], list[Figure]], ...] = (
    lambda: asyncio.run(stops.measure()),
    limits.measure,
    purges.measure,
    lambda: asyncio.run(durability.measure()),
    flood.measure,
    first_byte.measure,
    commands.measure,
    chain.measure,
)


def main() -> None:
    """Measure, and print."""
    found: list[Figure] = [figure for measure in MEASUREMENTS for figure in measure()]
    table = Table("measured", "result")
    for figure in found:
        table.add_row(figure.what, figure.value)
    Console(width=160).print(table)


if __name__ == "__main__":
    main()
