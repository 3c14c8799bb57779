"""What ruff's security rules (`S`) do not read: the console's JavaScript, the log's Lua, what CI runs."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
SCRIPTS = sorted(path for path in (ROOT / "services").rglob("*.js") if path.name != "uplot.js")  # that one is not ours
LUA = sorted(path for folder in ("services", "shared", "skeldir") for path in (ROOT / folder).rglob("*.lua"))
WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))

# Text of tenants is shown in the console: none of these takes it for text.
SINKS = re.compile(
    r"\b(innerHTML|outerHTML|insertAdjacentHTML|document\.write|createContextualFragment|srcdoc|eval|Function)\b\s*[=(]"
    r"|javascript:|set(?:Timeout|Interval)\(\s*[\"'`]|\.on[a-z]+\s*=\s*[\"'`]"
)
# A command that arguments name: only where a writer that holds its lease commits what it has put together, and where a
# log is restored while no service works.
COMPOSED = {"shared/streams/fenced.lua", "skeldir/restoring/step.lua"}


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.name)
def test_the_console_never_takes_text_for_markup_or_code(path: Path) -> None:
    assert not [line for line in path.read_text().splitlines() if SINKS.search(line)]


@pytest.mark.parametrize(
    "line",
    [
        "cell.innerHTML = name;",
        "eval(answer)",
        "new Function(text)",
        "a.href = `javascript:${x}`",
        "setTimeout('go()', 1)",
    ],
)
def test_a_line_that_does_is_found(line: str) -> None:
    assert SINKS.search(line)


@pytest.mark.parametrize("path", LUA, ids=lambda path: path.name)
def test_scripts_in_the_log_call_commands_that_they_name_and_no_code_of_others(path: Path) -> None:
    text = re.sub(r"--.*", "", path.read_text())
    assert not re.search(r"\b(loadstring|load|dofile|require|setfenv)\s*\(", text)
    composed = re.findall(r"redis\.p?call\((?!')[^)]*", text)
    assert bool(composed) == (str(path.relative_to(ROOT)) in COMPOSED), composed


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.name)
def test_what_ci_runs_of_others_is_named_by_its_hash(path: Path) -> None:
    """A tag is whatever its owner, or who has taken it from them, says today."""
    workflow = yaml.safe_load(path.read_text())
    assert workflow["permissions"] == {"contents": "read"}
    steps = [step for job in workflow["jobs"].values() for step in job["steps"]]
    used = [step["uses"] for step in steps if "uses" in step]
    assert used and all(re.fullmatch(r"[\w./-]+@[0-9a-f]{40}", one) for one in used), used
    assert all(
        step["with"]["persist-credentials"] is False
        for step in steps
        if step.get("uses", "").startswith("actions/checkout@")
    )
    assert not re.search(r"run:.*\$\{\{", path.read_text()), "what others wrote, in a shell"
