"""The `skeldir` command, and `python -m skeldir`."""

from __future__ import annotations

import sys


def main() -> None:
    """Load the command line and run it. Ctrl-C while it loads, half a second, ends it as it does later."""
    try:
        from skeldir.cli import main as command
    except KeyboardInterrupt:
        sys.exit(130)
    command()


if __name__ == "__main__":
    main()
