"""`make bench`: all measurements, one after another, as one table."""

from __future__ import annotations

import asyncio

from rich.console import Console
from rich.table import Table

from tests.bench import durability, first_byte, flood, stops


def main() -> None:
    """Measure, and print."""
    table = Table("measured", "result")
    waiting = asyncio.run(stops.measure())
    for figure in (*waiting, *asyncio.run(durability.measure()), *flood.measure(), *first_byte.measure()):
        table.add_row(figure.what, figure.value)
    Console(width=160).print(table)


if __name__ == "__main__":
    main()
