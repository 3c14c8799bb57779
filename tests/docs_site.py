"""What mkdocs does for `docs/` besides: pages of the root, and all decisions, have a place, and links lead there."""

from __future__ import annotations

import posixpath
import re
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).resolve().parents[1]
PLACES = {"SECURITY.md": "security.md", "CONTRIBUTING.md": "contributing.md", "CHANGELOG.md": "changelog.md"}


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Gives every decision a place: a new one needs none of its own in mkdocs.yml."""
    for section in (one for part in config.nav or [] if isinstance(part, dict) for one in part.values()):
        for entry in section if isinstance(section, list) else []:
            if isinstance(entry, dict) and "Decisions" in entry:
                entry["Decisions"] = sorted(f"adr/{page.name}" for page in (ROOT / "docs" / "adr").glob("*.md"))
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Adds the pages of the root."""
    for name, place in PLACES.items():
        files.append(File.generated(config, place, content=(ROOT / name).read_text()))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Links as they are in the repository become links on the site. What has no place there stays, and fails."""
    place = page.file.src_uri
    here = next((name for name, moved in PLACES.items() if moved == place), f"docs/{place}")

    def moved(link: re.Match[str]) -> str:
        target, mark, anchor = link[1].partition("#")
        if "://" in target or not target:
            return link[0]
        there = posixpath.normpath(posixpath.join(posixpath.dirname(here), target))
        there = PLACES.get(there) or there.removeprefix("docs/")
        return f"]({posixpath.relpath(there, posixpath.dirname(place) or '.')}{mark}{anchor})"

    return re.sub(r"\]\(([^)\s]+)\)", moved, markdown)
