"""The house style, checked: small files, small functions, no blocking calls in async code, bounds on queues."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
CODE = sorted(path for folder in ("shared", "services", "skeldir") for path in (ROOT / folder).rglob("*.py"))
MAX_FILE_LINES = 450
MAX_FUNCTION_LINES = 60
VAGUE = {"utils", "helpers", "misc", "common", "manager", "util", "helper"}


def functions(path: Path) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield node


@pytest.mark.parametrize("path", CODE, ids=lambda path: str(path.relative_to(ROOT)))
def test_a_file_can_be_held_in_the_head(path: Path) -> None:
    lines = path.read_text().count("\n")
    assert lines <= MAX_FILE_LINES, f"{lines} lines: usually two concepts"
    assert path.stem not in VAGUE, "a name that says nothing"
    long = [node.name for node in functions(path) if (node.end_lineno or 0) - node.lineno >= MAX_FUNCTION_LINES]
    assert not long, f"functions over {MAX_FUNCTION_LINES} lines: {long}"
    tree = ast.parse(path.read_text())
    assert not tree.body or ast.get_docstring(tree), "a module says what it is for"


@pytest.mark.parametrize("path", CODE, ids=lambda path: str(path.relative_to(ROOT)))
def test_async_code_does_not_block_and_queues_are_bounded(path: Path) -> None:
    for function in functions(path):
        calls = [ast.unparse(node.func) for node in ast.walk(function) if isinstance(node, ast.Call)]
        if isinstance(function, ast.AsyncFunctionDef):
            assert "time.sleep" not in calls, function.name
            assert "subprocess.run" not in calls, function.name
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Call) and ast.unparse(node.func).endswith(("asyncio.Queue", "Queue[dict[str, Any]]")):
            assert node.args or node.keywords, f"line {node.lineno}: a queue without a bound"


@pytest.mark.parametrize("folder", ["services/policy/rules", "services/policy", "services/policy/provider_breakers"])
def test_the_pure_core_has_no_clock_and_no_io(folder: str) -> None:
    pure = {"decide", "evolve", "budget", "state", "turn", "window", "desk"} if not folder.endswith("rules") else None
    for path in (ROOT / folder).glob("*.py"):
        if pure is not None and path.stem not in pure:
            continue
        imported = {
            name
            for node in ast.walk(ast.parse(path.read_text()))
            if isinstance(node, ast.Import | ast.ImportFrom)
            for name in ([node.module or ""] if isinstance(node, ast.ImportFrom) else [one.name for one in node.names])
        }
        banned = {
            name for name in imported if name.split(".")[0] in {"time", "random", "redis", "asyncpg", "asyncio", "os"}
        }
        assert not banned, f"{path.name} imports {banned}"
        assert "datetime.now" not in path.read_text()
