"""`python -m tests.simulation --seeds N`, or `--seed N` to run one history again and read it."""

from __future__ import annotations

import argparse
import logging
import sys
import time

import structlog

from tests.simulation.scheduler import run


def main() -> int:
    """Exit 0 when every history held."""
    parser = argparse.ArgumentParser(prog="make simulate")
    parser.add_argument("--seeds", type=int, default=1000, help="how many histories")
    parser.add_argument("--first", type=int, default=0, help="the first seed")
    parser.add_argument("--seed", type=int, help="this one only, with its story")
    arguments = parser.parse_args()
    # What services log when a reply is lost is part of the plan here.
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
    if arguments.seed is not None:
        try:
            print("\n".join(run(arguments.seed).story))
        except Exception as error:
            print(f"{type(error).__name__}: {error}", *getattr(error, "__notes__", []), sep="\n")
            return 1
        return 0
    began = time.monotonic()
    calls = 0
    for seed in range(arguments.first, arguments.first + arguments.seeds):
        try:
            calls += len(run(seed).calls)
        except Exception as error:
            print(*getattr(error, "__notes__", []), f"{type(error).__name__}: {error}", sep="\n")
            print(f"again: make simulate SEED={seed}")
            return 1
    seconds = time.monotonic() - began
    rate = arguments.seeds / seconds * 60
    print(f"{arguments.seeds} histories held, {calls} provider calls in them; {rate:,.0f} histories a minute")
    return 0


if __name__ == "__main__":
    sys.exit(main())
