"""Hooks of mkdocs (mkdocs.yml): pages that the repository keeps in its root are part of the site too."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from mkdocs.structure.files import File

ROOT = Path(__file__).resolve().parents[1]
#: Files of the root that are pages of the site.
PAGES = ("CONTRIBUTING.md", "SECURITY.md", "CHANGELOG.md")


def on_files(files: Any, config: Any) -> Any:
    """Add the pages of the root, with their links as seen from docs/."""
    for name in PAGES:
        text = (ROOT / name).read_text("utf-8").replace("](docs/", "](")
        files.append(File.generated(config, name, content=text))
    return files


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Let links to the root's pages lead to the site's."""
    for name in PAGES:
        markdown = markdown.replace(f"](../{name}", f"]({name}")
    return markdown
