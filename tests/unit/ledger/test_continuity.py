"""Whether the log goes on where the books end: what is told apart, and what it leads to."""

from __future__ import annotations

import pytest

from services.ledger.continuity import Broken, Seen, Standing, before, judge, refuse
from shared.partitions import CONTROL

AT = "100-5"


@pytest.mark.parametrize(
    ("seen", "known", "standing"),
    [
        (Seen(has_checkpoint=True, first="1-0", last="200-0"), True, Standing.WHOLE),
        (Seen(has_checkpoint=True, first=AT, last=AT, removed=900), False, Standing.WHOLE),
        # The books were restored from a copy, and the log goes no further back.
        (Seen(first="150-0", last="200-0", removed=900), True, Standing.GAP),
        # The log was: its end is gone, whatever came since.
        (Seen(first="1-0", last="90-0"), True, Standing.BEHIND),
        (Seen(first="1-0", last="200-0", removed=3), True, Standing.BEHIND),
        (Seen(removed=12, last="90-0"), True, Standing.BEHIND),
        # A new log: nobody has restored it, or somebody has.
        (Seen(), False, Standing.LOST),
        (Seen(first="150-0", last="150-0"), False, Standing.LOST),
        (Seen(last=AT), True, Standing.WHOLE),
        (Seen(first="150-0", last="150-0"), True, Standing.WHOLE),
        (Seen(), True, Standing.BEHIND),
    ],
)
def test_how_a_stream_stands_to_the_books(seen: Seen, known: bool, standing: Standing) -> None:
    assert judge(AT, seen, known=known) is standing


@pytest.mark.parametrize(
    ("seen", "standing"),
    [
        (Seen(), Standing.WHOLE),
        (Seen(first="5-0", last="9-0"), Standing.WHOLE),
        (Seen(first="5-0", removed=2), Standing.GAP),
    ],
)
def test_books_that_have_nothing_of_a_stream(seen: Seen, standing: Standing) -> None:
    assert judge("0-0", seen, known=False) is standing


def test_after_a_gap_that_was_accepted_the_books_go_on_right_before_the_first_entry() -> None:
    for first in ("150-3", "150-0"):
        assert judge(before(first), Seen(first=first, last="200-0", removed=9), known=True) is Standing.WHOLE
    assert (before("150-3"), before("150-0")) == ("150-2", f"149-{2**64 - 1}")


@pytest.mark.parametrize(
    ("stream", "standing", "lost"),
    [("{skeldir:0}:tasks", Standing.LOST, True), (CONTROL, Standing.BEHIND, True), ("t", Standing.GAP, False)],
)
def test_the_ledger_does_not_go_on(stream: str, standing: Standing, lost: bool) -> None:
    """What is lost is found before policy is told that it may begin; a gap after the trimmer is told to stop."""
    with pytest.raises(Broken):
        refuse({"whole": Standing.WHOLE, stream: standing}, lost=lost)
    refuse({stream: standing}, lost=not lost)


def test_a_lost_end_is_said_and_does_not_stop_the_books() -> None:
    for lost in (True, False):
        refuse({"{skeldir:0}:tasks": Standing.BEHIND}, lost=lost)
