"""The Chromium of this machine, as tests and pictures start it."""

from __future__ import annotations

import shutil

NAMES = ("chromium", "chromium-browser", "google-chrome")
# As root in a container there is no sandbox; and nothing is asked of the network.
FLAGS = (
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync",
)  # fmt: skip


def chromium_path() -> str | None:
    """Where it is, if anywhere."""
    return next(filter(None, map(shutil.which, NAMES)), None)
