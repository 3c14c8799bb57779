"""What holds for every acceptance case."""

from __future__ import annotations

import time

import pytest

HOUR_S = 3600
ROOM_S = 25


@pytest.fixture(autouse=True)
def _room_in_the_hour() -> None:
    """No case begins in the last seconds of a clock hour: what is spent, held and left would be of two hours."""
    if (left_s := HOUR_S - time.time() % HOUR_S) < ROOM_S:
        time.sleep(left_s)
