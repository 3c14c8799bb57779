"""The site of `docs/`: each page has its place, links lead somewhere, and a reader's browser asks nobody else."""

from __future__ import annotations

import logging
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from mkdocs.commands.build import build
from mkdocs.config import load_config
from mkdocs.exceptions import Abort

ROOT = Path(__file__).resolve().parents[2]
BARE: dict[str, Any] = {"plugins": [], "theme": {"name": "mkdocs"}}


def made(into: Path, **other: Any) -> Path:
    """The site, made as `make docs` makes it. Raises Abort where anything is wrong."""
    config = load_config(str(ROOT / "mkdocs.yml"), site_dir=str(into), **other)
    config.plugins.on_startup(command="build", dirty=False)
    build(config)
    return into


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The whole site."""
    return made(tmp_path_factory.mktemp("site"))


class Asked(HTMLParser):
    """What a browser fetches for a page."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        given = dict(attributes)
        self.found += [given[name] or "" for name in ("src", "srcset", "poster") if name in given]
        if tag == "link" and given.get("rel") != "canonical":
            self.found.append(given.get("href") or "")


def test_a_page_asks_nothing_of_other_servers(site: Path) -> None:
    pages = sorted(site.rglob("*.html"))
    assert len(pages) > 50
    for page in pages:
        asked = Asked()
        asked.feed(page.read_text())
        assert asked.found, page
        elsewhere = [one for one in asked.found if "://" in one or one.startswith("//")]
        assert not elsewhere, f"{page.relative_to(site)}: {elsewhere}"
        assert 'class="mermaid"' not in page.read_text(), "the theme would fetch a library to draw it"
    for style in site.rglob("*.css"):
        assert not re.findall(r"(?:url\(|@import )[\"']?(?:https?:)?//", style.read_text()), style.name


def test_pages_of_the_root_have_a_place_and_their_links_lead_to_the_site(site: Path) -> None:
    security = (site / "security.html").read_text()
    assert 'href="runbooks/key-compromise.html"' in security
    assert 'href="../security.html"' in (site / "runbooks" / "key-compromise.html").read_text()
    assert "Unreleased" in (site / "changelog.html").read_text()
    assert (site / "events" / "schemas" / "task.allowed.1.json").exists()


@pytest.mark.parametrize(
    ("page", "complaint"),
    [
        ("[x](nowhere.md)", "nowhere.md"),
        ("[x](#nowhere)", "#nowhere"),
        ("[x](../SECURITY.txt)", "SECURITY.txt"),
        ("[x](/absolute)", "/absolute"),
    ],
)
def test_a_link_that_leads_nowhere_is_refused(
    page: str, complaint: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    docs = tmp_path / "docs"
    docs.mkdir()
    (docs / "index.md").write_text(f"# A page\n\n{page}\n")
    with caplog.at_level(logging.WARNING, "mkdocs"), pytest.raises(Abort):
        made(tmp_path / "site", docs_dir=str(docs), nav=["index.md"], **BARE)
    assert complaint in caplog.text


def test_a_page_without_a_place_is_refused(tmp_path: Path) -> None:
    docs = tmp_path / "docs"
    docs.mkdir()
    (docs / "index.md").write_text("# A page\n")
    (docs / "other.md").write_text("# Another\n")
    with pytest.raises(Abort):
        made(tmp_path / "site", docs_dir=str(docs), nav=["index.md"], **BARE)
