"""The same cases on stock Redis, Valkey and PostgreSQL: containers or programs; skipped, with a word, without."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.acceptance.cases import *  # noqa: F403  (the same cases, on the stack of this file)
from tests.acceptance.test_own_servers import (  # noqa: F401
    Urls,
    test_a_task_ends_in_the_books_and_the_servers_stay,
    test_one_url_with_all_rights_is_enough_and_is_spoken_of,
    test_what_would_keep_no_books_does_not_start,
)
from tests.own_servers import STOCK, Images, Programs, containers, installed, named_programs, no_engine
from tests.stack import Stack

SERVERS: list[Programs | Images] = [*named_programs(), *(() if no_engine() else STOCK)]
if not SERVERS:
    pytest.skip(str(no_engine()), allow_module_level=True)


@pytest.fixture(scope="module", params=SERVERS, ids=str)
def urls(request: pytest.FixtureRequest, new_folder: Callable[[], Path]) -> Iterator[Urls]:
    """The environment of one who runs them."""
    wanted: Programs | Images = request.param
    with containers(wanted) if isinstance(wanted, Images) else installed(wanted, new_folder()) as servers:
        yield servers.environment


@pytest.fixture(scope="module")
def stack(urls: Urls, new_folder: Callable[[], Path]) -> Iterator[Stack]:
    """`skeldir up` on them."""
    with Stack(new_folder(), urls) as running:
        yield running


def test_the_books_are_sound_afterwards(stack: Stack) -> None:
    """Last."""
    stack.call(stack.run(prompt={"simulated_cost_cents": 1}))
    verified = stack.cli("ledger", "verify", "--history", check=False)
    assert verified.returncode == 0, verified.stdout
