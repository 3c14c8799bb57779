"""`python -m tests.simulation --seeds N`, or `--seed N` to run one history again and read it."""

from __future__ import annotations

import argparse
import logging
import sys
import time
from concurrent.futures import ProcessPoolExecutor

import structlog

from tests.simulation.scheduler import run


def main() -> int:
    """Exit 0 when every history held."""
    parser = argparse.ArgumentParser(prog="make simulate")
    parser.add_argument("--seeds", type=int, default=1000, help="how many histories")
    parser.add_argument("--first", type=int, default=0, help="the first seed")
    parser.add_argument("--seed", type=int, help="this one only, with its story")
    arguments = parser.parse_args()
    _quietly()
    if arguments.seed is not None:
        try:
            print("\n".join(run(arguments.seed).story))
        except Exception as error:
            print(f"{type(error).__name__}: {error}", *getattr(error, "__notes__", []), sep="\n")
            return 1
        return 0
    began = time.monotonic()
    calls = 0
    seeds = range(arguments.first, arguments.first + arguments.seeds)
    with ProcessPoolExecutor(initializer=_quietly) as pool:
        for seed, found in zip(seeds, pool.map(_history, seeds, chunksize=50), strict=True):
            if isinstance(found, str):
                print(found, f"again: make simulate SEED={seed}", sep="\n")
                pool.shutdown(cancel_futures=True)
                return 1
            calls += found
    seconds = time.monotonic() - began
    rate = arguments.seeds / seconds * 60
    print(f"{arguments.seeds:,} histories held, {calls:,} provider calls in them; {rate:,.0f} histories a minute")
    return 0


def _history(seed: int) -> int | str:
    """How many calls the provider got; or what did not hold, with the story."""
    try:
        return len(run(seed).calls)
    except Exception as error:
        return "\n".join([*getattr(error, "__notes__", []), f"{type(error).__name__}: {error}"])


def _quietly() -> None:
    """What services log when a reply is lost is part of the plan here."""
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))


if __name__ == "__main__":
    sys.exit(main())
