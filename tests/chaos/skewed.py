"""`python -m tests.chaos.skewed HOURS serve executor`: a service in whose process every wall clock is wrong by so much.

The functions of the module `time` are replaced before anything of Skeldir is imported; the monotonic clock stays.
"""

from __future__ import annotations

import sys
import time


def main() -> None:
    """Turn the clock, then run the command."""
    skew_ns = int(float(sys.argv.pop(1)) * 3600 * 10**9)
    time_ns = time.time_ns
    time.time_ns = lambda: time_ns() + skew_ns
    time.time = lambda: (time_ns() + skew_ns) / 1e9
    from skeldir.cli import main as command  # after the clock is turned: what it imports must see no other

    command()


if __name__ == "__main__":
    main()
