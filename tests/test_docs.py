"""The documentation: its links, its commands, the messages that it explains, and the site that mkdocs builds."""

import importlib.util
import re
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import OpenImageIO as oiio
import pytest
import yaml

from panoform.backend.cli import main as cli
from panoform.shared.weights import WEIGHTS

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
PAGES = sorted(DOCS.glob("*.md"))
WRITTEN = [*PAGES, *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "SECURITY.md", "CHANGELOG.md"))]
_LINK = re.compile(r"\]\(([^)\s]+)\)")
_FENCE = re.compile(r"(?P<run><!-- run -->\n)?```sh\n(?P<lines>.*?)```", re.DOTALL)


def anchors(page: Path) -> set[str]:
    """Return the anchors of a page's headings, as mkdocs and forges make them."""
    headings = re.findall(r"^#+ (.+)$", page.read_text("utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", WRITTEN, ids=lambda page: page.name)
def test_links_lead_somewhere(page):
    for link in _LINK.findall(page.read_text("utf-8")):
        if link.startswith(("https://", "mailto:")):
            continue
        path, _, anchor = link.partition("#")
        target = page if not path else page.parent / path
        assert target.exists(), link
        assert not anchor or anchor in anchors(target), link


def nav(entries) -> list[str]:
    """Return the pages of mkdocs' navigation."""
    found = []
    for entry in entries:
        for value in entry.values():
            found += [value] if isinstance(value, str) else nav(value)
    return found


class _Loader(yaml.SafeLoader):
    """Reads mkdocs.yml without what its tags name."""


_Loader.add_multi_constructor("tag:yaml.org,2002:python/name:", lambda *_: None)


def test_every_page_is_in_the_navigation():
    config = yaml.load((ROOT / "mkdocs.yml").read_text("utf-8"), _Loader)
    pages = nav(config["nav"])
    assert sorted(pages) == sorted([*(page.name for page in PAGES), "CONTRIBUTING.md", "SECURITY.md", "CHANGELOG.md"])


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("material") is None, reason="mkdocs-material isn't installed (.[docs])")
def test_site_is_built_without_a_warning(tmp_path):
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path / "site")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert (tmp_path / "site" / "CONTRIBUTING" / "index.html").is_file()


# Messages


def test_troubleshooting_explains_messages_that_exist():
    folders = ("backend", "blender_addon", "shared")
    sources = "\n".join(file.read_text("utf-8") for folder in folders for file in sorted((ROOT / folder).rglob("*.py")))
    rows = re.findall(r"^\| `(.+?)` \|", (DOCS / "troubleshooting.md").read_text("utf-8"), re.MULTILINE)
    assert len(rows) > 15
    for message in rows:
        for part in message.split("…"):
            assert part.strip() in sources, f"{part.strip()!r} of {message!r}"


def test_licences_are_those_of_the_table():
    text = (DOCS / "licences.md").read_text("utf-8")
    for spec in WEIGHTS.values():
        assert f"| {spec.label} |" in text
        assert spec.page in text
        assert spec.licence.split(";")[0].lower() in text.lower()


def test_size_of_the_texturing_model_is_that_of_the_table():
    size = f"{(WEIGHTS['sd21'].bytes + WEIGHTS['mv-adapter'].bytes) / 1e9:.1f} GB"
    for path in ("README.md", "docs/texturing.md", "blender_addon/texture/operators.py"):
        assert size in (ROOT / path).read_text("utf-8"), path


# Commands


def commands() -> list[tuple[str, bool]]:
    """Return the command lines of the README and all pages, in order, and whether the test runs them."""
    readme = (ROOT / "README.md").read_text("utf-8")
    found = [(line, False) for line in re.findall(r"^    ((?:panoform|blender) .+)$", readme, re.MULTILINE)]
    for page in PAGES:
        for fence in _FENCE.finditer(page.read_text("utf-8")):
            found += [(line, bool(fence["run"])) for line in fence["lines"].splitlines()]
    return found


COMMANDS = commands()


@pytest.mark.parametrize("line", [line for line, _ in COMMANDS if line.startswith("panoform ")])
def test_commands_of_the_backend_are_understood(line):
    assert cli._parser().parse_args(shlex.split(line)[1:]).run


def test_commands_of_blender_are_understood():
    from panoform.blender_addon import command

    prefix = "blender --background --command panoform "
    lines = [line.removeprefix(prefix) for line, _ in COMMANDS if line.startswith(prefix)]
    assert len(lines) >= 4
    for line in lines:
        assert command._parsers()[0].parse_args(shlex.split(line)).verb
    assert all(line.startswith(("panoform ", prefix)) for line, _ in COMMANDS)


@pytest.fixture
def files(tmp_path, monkeypatch):
    """The files that the commands name, in the current folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PANOFORM_MODELS", str(tmp_path / "models"))
    pixels = np.random.default_rng(0).uniform(0.2, 1, (64, 128, 3)).astype(np.float32)
    image = oiio.ImageBuf(oiio.ImageSpec(128, 64, 3, oiio.UINT8))
    image.set_pixels(oiio.ROI(), pixels)
    assert image.write("room.png")
    return tmp_path


@pytest.mark.slow
def test_commands_run_in_the_order_of_the_pages(files, capsys):
    """In one process, as most of them import torch. What takes longer is left to the commands' own tests."""
    for line in [line for line, runs in COMMANDS if runs]:
        code = cli.main(shlex.split(line)[1:])
        assert code == 0, f"{line}: {capsys.readouterr().err}"
    assert {"maps/distance.exr", "room.glb"} <= {
        path.relative_to(files).as_posix() for path in files.rglob("*") if path.is_file()
    }
