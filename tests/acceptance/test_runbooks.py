"""Every command of every runbook and of the quick start, run on a running system: it prints what the page says."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from skeldir.running import MASTER_KEY
from tests.runbooks import FOLDER, Answer, Operator, is_as_expected, steps, walk
from tests.stack import Stack, eventually

QUICK_START = FOLDER.parent / "quickstart.md"
# Of restore.md servers are lost: `test_restore.py`.
PAGES = sorted(page for page in FOLDER.glob("*.md") if page.name not in ("README.md", "restore.md"))


@pytest.fixture(scope="module")
def stack(new_folder: Callable[[], Path]) -> Iterator[Stack]:
    """With breakers and time-outs that a test can wait for."""
    soon = {
        "BREAKER_OPEN_SECONDS": "1",
        "PROVIDER_TIMEOUT_MS": "500",
        "LATE_RESULT_SECONDS": "0",
    }
    with Stack(new_folder(), {f"SKELDIR_{name}": value for name, value in soon.items()}) as running:
        yield running


class OnCall(Operator):
    """Who is called when something is wrong, which is brought about first."""

    def __init__(self, stack: Stack, folder: Path, **variables: str) -> None:
        key = str(stack.data.resolve() / MASTER_KEY)
        super().__init__(stack, folder, {"restart": self._restart}, SKELDIR_MASTER_KEY_FILE=key, **variables)

    def _skeldir(self, arguments: list[str], environment: dict[str, str], folder: Path) -> Answer:
        """As for a person, what was ordered holds by the time that the next command is typed."""
        before = self._newest_order()
        answer = super()._skeldir(arguments, environment, folder)
        if self._newest_order() != before:
            self.stack.until_heard()
        return answer

    def _newest_order(self) -> Any:
        with self.stack.redis() as log:
            return log.xrevrange("skeldir:control", count=1)

    def _restart(self, arguments: list[str], environment: dict[str, str], folder: Path) -> Answer:
        """`skeldir up` starts again what has ended. Killed: one that is stalled does not hear anything else."""
        (name,) = arguments
        before = self.stack.pid(name)
        os.kill(before, signal.SIGKILL)
        eventually(lambda: self.stack.ready["pids"][name] not in (0, before), f"{name} is started again")
        return 0, "", ""

    def bring_about(self, what: str) -> None:
        """Make it so."""
        match what:
            case "policy is stalled":
                os.kill(self.stack.pid("policy"), signal.SIGSTOP)
            case "three calls have failed":
                for _ in range(3):
                    assert self.stack.run(prompt={"raise_error": True})["status"] == "failed"
            case "somebody has put nonsense into the inbox":
                self.stack.redis().xadd("skeldir:inbox", {"data": json.dumps({"task_type": "route"})})
            case "nobody knows how a call ended":
                slow = {"simulated_delay_ms": 2000, "simulated_cost_cents": 2}
                ended = self.stack.run(request_id="drifting", prompt=slow, max_cost_cents=2)
                assert ended["failure_reason"] == "provider_timeout"
            case "a key is in wrong hands":
                self.shell.run(f"LEAKED={self.stack.key(self.stack.ready['tenant_id'], str(uuid4()))}")
                self.shell.run("""KEY_ID=$(skeldir key list --json | sed 's/.*"key_id": "\\(key_[^"]*\\)".*/\\1/')""")
            case _:
                raise AssertionError(f"nothing here brings about that {what}")

    def stand_down(self) -> None:
        """A page that failed in its middle leaves no switch engaged for the next one."""
        for switch in json.loads(self.stack.cli("kill-switch", "status", "--json").stdout)["switches"]:
            scope = [
                f"--{name.removesuffix('_id').replace('_', '-')}={value}" for name, value in switch["scope"].items()
            ]
            self.stack.cli("kill-switch", "release", *scope, "--reason", "the page is over")


def test_the_quick_start_does_what_it_says(stack: Stack, new_folder: Callable[[], Path]) -> None:
    who = str(uuid4())  # who has spent nothing yet, as its reader
    somebody_new = OnCall(stack, new_folder(), WHO=who, SKELDIR_API_KEY=stack.key(stack.ready["tenant_id"], who))
    with somebody_new.shell as shell:
        try:
            assert walk(shell, QUICK_START, somebody_new.bring_about)
        finally:
            somebody_new.stand_down()


@pytest.mark.timeout(300)
@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_the_commands_of_a_runbook_do_what_it_says(page: Path, stack: Stack, new_folder: Callable[[], Path]) -> None:
    on_call = OnCall(stack, new_folder())
    with on_call.shell as shell:
        try:
            assert walk(shell, page, on_call.bring_about), "a runbook without a command"
        finally:
            on_call.stand_down()


def test_a_page_that_says_something_else_is_found() -> None:
    assert is_as_expected("a ... c\n", "a b\nb c  \n\n")
    assert is_as_expected("...\nstatus  success...\n", "id  1\nstatus  success  \n")
    assert not is_as_expected("a ... c", "a b d")
    assert not is_as_expected("sound", "unsound")
    assert not is_as_expected("", "a complaint")


def test_a_page_is_read_as_it_is_written() -> None:
    page = "# A\n\n```console\n$ one\n1\n$ two \\\n>   more\n```\n\n"
    page += "<!-- given: it rains -->\ntext\n\n```console\n$ three\n```\n"
    found = [(step.command, step.expected, step.line, step.given) for step in steps(page)]
    assert found == [
        ("one", "1", 4, ()),
        ("two \\\n  more", "", 6, ()),
        ("three", "", 14, ("it rains",)),
    ]
    with pytest.raises(AssertionError):
        steps("<!-- given: it rains -->\n")
