"""How often Python searches for garbage that reference counts do not free."""

from __future__ import annotations

import gc

THRESHOLDS = (50_000, 20, 100)


def collect_less() -> None:
    """For what runs long or handles many rows. What is loaded by now lives as long as the process, and events hardly
    ever make cycles: searching for them as often as Python does by itself costs a service a tenth of its CPU
    (`python -m tests.bench.chain`), and a walk of all events a quarter (`python -m tests.bench.verifying`).
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(*THRESHOLDS)
