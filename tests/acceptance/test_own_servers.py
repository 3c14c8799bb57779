"""`skeldir up` on servers that somebody else runs: each service in its own role, or it says why not."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.acceptance.cases import *  # noqa: F403  (the same cases, on the stack of this file)
from tests.own_servers import embedded
from tests.stack import Stack

Urls = dict[str, str]


@pytest.fixture(scope="module")
def urls(new_folder: Callable[[], Path]) -> Iterator[Urls]:
    """The environment of one who runs the servers; its roles are those of `deploy/`."""
    with embedded(new_folder()) as servers:
        yield servers.environment


@pytest.fixture(scope="module")
def stack(urls: Urls, new_folder: Callable[[], Path]) -> Iterator[Stack]:
    """`skeldir up` on them."""
    with Stack(new_folder(), urls) as running:
        yield running


def test_a_task_ends_in_the_books_and_the_servers_stay(new_stack: Callable[..., Stack], urls: Urls) -> None:
    stack = new_stack(**urls)
    result = stack.run(prompt={"simulated_cost_cents": 2})
    assert stack.call(result)["status"] == "success"
    for name in ("gateway", "ledger"):
        assert stack.get("/readyz", base=f"{name}_url").status_code == 200
    stack.stop()
    assert Stack(stack.directory / "cli", urls).cli("doctor", "--json", check=False).stdout, "the servers still answer"


def test_one_url_with_all_rights_is_enough_and_is_spoken_of(new_stack: Callable[..., Stack], urls: Urls) -> None:
    stack = new_stack(SKELDIR_REDIS_URL=urls["SKELDIR_REDIS_URL"], SKELDIR_DATABASE_URL=urls["SUPERUSER"])
    assert stack.call(stack.run(prompt={"simulated_cost_cents": 2}))["status"] == "success"
    said = (stack.directory / "up.log").read_text()
    assert "warning" in said
    assert "sees every tenant" in " ".join(said.split())


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"SKELDIR_LEDGER_DATABASE_URL": None}, "SKELDIR_LEDGER_DATABASE_URL"),
        ({"SKELDIR_DATABASE_URL": None}, "SKELDIR_DATABASE_URL"),
        ({"SKELDIR_LEDGER_DATABASE_URL": "SKELDIR_DATABASE_URL"}, "as app_user"),
        ({"SKELDIR_LEDGER_DATABASE_URL": "SKELDIR_ADMIN_DATABASE_URL"}, "as skeldir_owner"),
    ],
    ids=["no ledger role", "no reader role", "ledger as reader", "ledger as owner"],
)
def test_what_would_keep_no_books_does_not_start(
    change: dict[str, str | None], named: str, urls: Urls, tmp_path: Path
) -> None:
    changed = {name: urls[instead] for name, instead in change.items() if instead is not None}
    environment = {name: url for name, url in {**urls, **changed}.items() if change.get(name, "") is not None}
    one = Stack(tmp_path, environment)
    said = one.refused("up", "--data", str(one.data))
    assert named in said
    assert all(url.partition("//")[2].partition("@")[0] not in said for url in urls.values()), "a credential"
