"""What commands do before they reach a server."""

from __future__ import annotations

import os
import subprocess
import sys
from datetime import UTC, datetime
from io import StringIO
from pathlib import Path
from uuid import uuid4

import orjson
import pytest
import typer
from rich.console import Console

from shared.control_state import ControlState, evolve
from shared.events.control import ControlEvent, parse_control
from skeldir.cli import erase, tail
from skeldir.cli.context import as_text, table_by
from skeldir.cli.control import released_nothing, unknown_provider

ENTRY = {b"type": b"x"}


def test_what_was_read_at_once_is_told_as_it_happened() -> None:
    pages = {
        "tasks": [(b"5-0", ENTRY), (b"20-0", ENTRY)],
        "decisions": [(b"5-1", ENTRY), (b"7-0", ENTRY)],
        "outcomes": [(b"5-0", ENTRY), (b"6-0", ENTRY), (b"6-1", ENTRY)],
    }
    told = [(stream, entry_id.decode()) for stream, (entry_id, _) in tail.in_time(pages)]
    assert told == [
        ("tasks", "5-0"),
        ("decisions", "5-1"),
        ("outcomes", "5-0"),
        ("outcomes", "6-0"),
        ("outcomes", "6-1"),
        ("decisions", "7-0"),
        ("tasks", "20-0"),
    ]


def test_at_a_terminal_an_erasure_is_asked_for_and_can_be_left(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []
    ordered: list[object] = []

    def no(question: str, *, abort: bool) -> None:
        assert abort
        asked.append(question)
        raise typer.Abort

    user = str(uuid4())
    monkeypatch.setenv("SKELDIR_ADMIN_DATABASE_URL", "postgresql://nobody@127.0.0.1:1/none")
    monkeypatch.setattr(erase, "at_terminal", lambda: True)
    monkeypatch.setattr(typer, "confirm", no)
    monkeypatch.setattr(erase, "append", ordered.append)
    with pytest.raises(typer.Abort):
        erase.erase(str(uuid4()), user)
    assert len(asked) == 1 and user in asked[0] and not ordered


def order(kind: str, **scope: str) -> ControlEvent:
    return parse_control(
        orjson.dumps({"type": f"kill_switch.{kind}", "scope": scope, "reason": "drill", "actor": "ann"})
    )


def test_a_release_of_no_switch_says_so_and_which_are_left() -> None:
    state = evolve(ControlState(), "5-0", order("engaged", model="stub:model"))
    now = datetime.now(UTC)
    assert released_nothing(order("released", provider="stub", model="model"), state, now) is None
    missed = released_nothing(order("released"), state, now)
    assert missed is not None and missed.endswith("still engaged: provider=stub model=model")
    nothing = released_nothing(order("released", model="stub:other"), ControlState(), now)
    assert nothing is not None and nothing.endswith("still engaged: none")


def test_a_switch_for_a_provider_that_nobody_knows_is_engaged_and_doubted() -> None:
    known = {"openai", "stub"}
    assert unknown_provider(order("engaged"), known) is None
    assert unknown_provider(order("engaged", model="openai:gpt-4o"), known) is None
    doubted = unknown_provider(order("engaged", model="opnai:gpt-4o"), known)
    assert doubted is not None and "'opnai'" in doubted and "openai, stub" in doubted


def test_however_narrow_the_terminal_no_id_is_cut() -> None:
    key, tenant = "key_73d98b2d3bf8", str(uuid4())
    table = table_by("key", "tenant", "user")
    table.add_row(key, tenant, "")
    console = Console(width=50, file=StringIO())
    console.print(table)
    cells = [line.split("│")[1:3] for line in console.file.getvalue().splitlines() if line.startswith("│")]  # type: ignore[attr-defined]
    assert cells[0][0].strip() == key
    assert "".join(cell.strip() for _, cell in cells) == tenant


def test_what_others_wrote_is_printed_as_it_is_and_does_nothing_to_the_terminal() -> None:
    console = Console(width=80, file=StringIO())
    console.print(as_text("[/INST] see [docs]\nand \x1b]0;title\x07 \x9b31m"), highlight=False)
    assert console.file.getvalue() == "[/INST] see [docs]\nand  ]0;title   31m\n"  # type: ignore[attr-defined]


def test_ctrl_c_while_a_command_still_loads_ends_it_without_a_traceback(tmp_path: Path) -> None:
    """The first library that it loads stands still for a moment, in which somebody presses it."""
    (tmp_path / "typer.py").write_text("import os, signal, time\nos.kill(os.getpid(), signal.SIGINT)\ntime.sleep(60)\n")
    environment = os.environ | {"PYTHONPATH": f"{tmp_path}{os.pathsep}{Path(__file__).parents[2]}"}
    command = [sys.executable, "-m", "skeldir", "--version"]
    ran = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=False)
    assert (ran.returncode, ran.stdout, ran.stderr) == (130, "", "")
