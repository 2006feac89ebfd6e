"""`panoform batch`: a folder with good and bad panoramas, done, resumed and done again."""

import csv
import html.parser
import io
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import OpenImageIO as oiio
import pytest

from panoform.backend.cli.main import main
from panoform.backend.io import summary
from panoform.backend.jobs import registry
from panoform.shared.batch import panoramas
from panoform.shared.protocol.errors import OutputError, WeightsError


def write(path: Path, shape=(32, 64, 3)) -> Path:
    pixels = np.random.default_rng(len(path.name)).uniform(0.1, 1, shape).astype(np.float32)
    oiio.ImageBuf(pixels).write(str(path), "uint8" if path.suffix != ".exr" else "half")
    return path


def content(folder: Path) -> dict[str, bytes]:
    return {str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("panoramas") / "Häuser & Höfe"
    folder.mkdir()
    for name in ("ä <b> & room.exr", "yard.jpg", "yard.png"):
        write(folder / name)
    write(folder / "square.png", (32, 32, 3))
    (folder / "broken.exr").write_bytes(b"nothing")
    (folder / "notes.txt").write_text("not a picture")
    return folder


def run(folder: Path, out: Path, *options: str) -> int:
    return main(["batch", str(folder), "--out", str(out), "--maps", "distance", "--height", "64", *options])


class Page(html.parser.HTMLParser):
    def __init__(self, text: str) -> None:
        super().__init__()
        self.pictures, self.links, self.texts = [], [], []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.pictures += [dict(attrs)["src"]] if tag == "img" else []
        self.links += [dict(attrs)["href"]] if tag == "a" else []

    def handle_data(self, data):
        self.texts.append(data)


@pytest.mark.slow
def test_rest_is_done_when_some_fail_and_a_second_run_skips_what_is_finished(folder, tmp_path, monkeypatch, capsys):
    out, models = tmp_path / "out", []
    job = registry.run

    def counted(request, cache, reporter):
        models.append(cache)
        return job(request, cache, reporter)

    monkeypatch.setattr(registry, "run", counted)
    assert run(folder, out) == 1
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 5, "one line for each"
    assert lines[0].startswith("[1/5] broken.exr: failed: broken.exr can't be read")
    assert "square.png: failed: " in lines[1]
    assert "2:1" in lines[1]
    assert [line.split(":")[0] for line in lines[2:]] == ["[3/5] yard.jpg", "[4/5] yard.png", "[5/5] ä <b> & room.exr"]
    assert len({id(cache) for cache in models}) == 1
    assert len(models) == 3
    assert {entry.name for entry in out.iterdir() if entry.is_dir()} == {"yard.jpg", "yard.png", "ä <b> & room"}

    rows = list(csv.DictReader(io.StringIO((out / "summary.csv").read_text("utf-8"))))
    assert [row["status"] for row in rows] == ["failed", "failed", "written", "written", "written"]
    assert [row["maps"] for row in rows[2:]] == ["distance"] * 3
    page = Page((out / "summary.html").read_text("utf-8"))
    assert len(page.pictures) == 6  # panorama and distance of each
    assert "ä <b> & room.exr" in page.texts
    assert not any("nothing" in link for link in page.links)

    before = content(out)
    assert run(folder, out) == 1
    assert capsys.readouterr().out.count("skipped, finished earlier") == 3
    assert len(models) == 3
    after = content(out)
    assert {name: data for name, data in after.items() if "summary" not in name} == {
        name: data for name, data in before.items() if "summary" not in name
    }


def test_part_of_the_panoramas_writes_no_summary_and_leaves_what_fails_to_the_run_that_does(tmp_path, capsys):
    (tmp_path / "in").mkdir()
    for name in ("a.exr", "b.exr", "c.exr"):
        (tmp_path / "in" / name).write_bytes(b"nothing")
    assert run(tmp_path / "in", tmp_path / "out", "--part", "1/2") == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split(": ")[0] for line in lines] == ["[1/2] a.exr", "[2/2] c.exr"]
    assert run(tmp_path / "in", tmp_path / "out", "--part", "4/4") == 0, "there is nothing to do"
    assert run(tmp_path / "in", tmp_path / "out", "--part", "1/1") == 0, "a farm's job of one task"
    assert not (tmp_path / "out").exists()
    assert run(tmp_path / "in", tmp_path / "out") == 1
    assert (tmp_path / "out" / "summary.csv").read_text("utf-8").count("failed") == 3


@pytest.mark.slow
def test_other_settings_or_a_newer_source_are_done_again(folder, tmp_path, capsys):
    one = tmp_path / "one"
    one.mkdir()
    source = write(one / "yard.png")
    out = tmp_path / "out"
    assert run(one, out) == 0
    assert run(one, out, "--seed", "1") == 0
    assert "skipped" not in capsys.readouterr().out
    assert run(one, out, "--seed", "1") == 0
    assert "skipped" in capsys.readouterr().out
    assert run(one, out) == 0
    assert "skipped" not in capsys.readouterr().out, "not with the seed of a moment ago: the default is another"
    later = time.time() + 60
    os.utime(source, (later, later))
    assert run(one, out) == 0
    assert "skipped" not in capsys.readouterr().out


def test_files_of_the_user_are_kept(tmp_path, capsys):
    one, out = tmp_path / "one", tmp_path / "out"
    one.mkdir()
    write(one / "yard.png")
    (out / "yard").mkdir(parents=True)
    (out / "yard" / "distance.exr").write_text("mine")
    assert run(one, out) == 1
    assert "not a result of Panoform" in capsys.readouterr().out
    assert (out / "yard" / "distance.exr").read_text() == "mine"
    (out / "summary.csv").write_text("my table")
    assert run(one, out) == 1
    assert "not a result of Panoform: summary.csv" in capsys.readouterr().err
    assert (out / "summary.csv").read_text() == "my table"
    assert run(one, out, "--overwrite") == 0


@pytest.mark.parametrize("page", [True, False], ids=["with page", "page deleted"])
@pytest.mark.parametrize("change", ["column", "row", "cell", "last cell"])
def test_tables_that_were_changed_are_kept(tmp_path, change, page):
    rows = [summary.Row(panorama="a, b", status="failed", folder="a", error='two\n"lines"')]
    summary.write(tmp_path, rows)
    summary.write(tmp_path, rows)
    table = tmp_path / "summary.csv"
    content = table.read_bytes()
    changed = {
        "column": content.replace(b"error", b"error,rating", 1),
        "row": content + b"a note\r\n",
        "cell": content.replace(b"two", b"my note"),
        "last cell": content[:-3] + b"!\r\n",
    }
    assert changed[change] != content
    table.write_bytes(changed[change])
    if not page:
        (tmp_path / "summary.html").unlink()
    with pytest.raises(OutputError, match=r"not a result of Panoform: summary\.csv"):
        summary.write(tmp_path, rows)


@pytest.mark.parametrize("deleted", ["summary.csv", "summary.html"])
def test_half_of_a_summary_is_written_again(tmp_path, deleted):
    for name in ("a", "b"):
        summary.write(tmp_path, [summary.Row(panorama=name, status="failed", folder="a", error="two, three")] * 2)
        (tmp_path / deleted).unlink()
    summary.write(tmp_path, [summary.Row(panorama="c", status="failed", folder="a", error="")])
    assert {path.name for path in tmp_path.iterdir()} == {"summary.csv", "summary.html"}
    assert "c,failed,a" in (tmp_path / "summary.csv").read_text("utf-8")


_KILLED = """
import os, sys
from pathlib import Path
from panoform.backend.io import summary
moves, folder = int(sys.argv[1]), Path(sys.argv[2])
replace = Path.replace
def killed(self, target):
    global moves
    if not moves:
        os._exit(9)
    moves -= 1
    return replace(self, target)
Path.replace = killed
summary.write(folder, [summary.Row(panorama="b", status="failed", folder="b", error="killed")])
"""


@pytest.mark.slow
@pytest.mark.parametrize("moves", range(5))
def test_summary_is_written_again_after_a_run_that_was_killed_while_it_was(tmp_path, moves):
    """Both files are moved aside, then the folder of the new ones, then these: after each a process is killed."""
    rows = [summary.Row(panorama="a", status="failed", folder="a", error="")]
    summary.write(tmp_path, rows)
    killed = subprocess.run([sys.executable, "-c", _KILLED, str(moves), str(tmp_path)], check=False)
    assert killed.returncode == 9
    summary.check(tmp_path, overwrite=False)
    summary.write(tmp_path, rows)
    assert {path.name for path in tmp_path.iterdir()} == {"summary.csv", "summary.html"}


def test_page_that_was_changed_is_kept(tmp_path):
    rows = [summary.Row(panorama="a", status="failed", folder="a", error="two")]
    summary.write(tmp_path, rows)
    page = tmp_path / "summary.html"
    page.write_text(page.read_text("utf-8").replace("two", "my note"), "utf-8")
    with pytest.raises(OutputError, match=r"not a result of Panoform: summary\.html"):
        summary.write(tmp_path, rows)
    summary.write(tmp_path, rows, overwrite=True)
    summary.write(tmp_path, rows)


@pytest.mark.slow
def test_result_of_another_panorama_is_kept(tmp_path, capsys):
    first, second, out = tmp_path / "first", tmp_path / "second", tmp_path / "out"
    for folder, name in ((first, "yard.png"), (second, "yard.jpg")):
        folder.mkdir()
        write(folder / name)
    assert run(first, out) == 0
    before = (out / "yard" / "maps.json").read_bytes()
    assert run(second, out) == 1
    assert "holds the result of yard.png" in capsys.readouterr().out
    assert (out / "yard" / "maps.json").read_bytes() == before


def test_missing_model_is_reported_once(folder, tmp_path, monkeypatch, capsys):
    def fails(*_):
        raise WeightsError("No checkpoint.", "Get one.")

    monkeypatch.setattr(registry, "run", fails)
    (tmp_path / "in").mkdir()
    for name in ("a.png", "b.png"):
        write(tmp_path / "in" / name)
    assert run(tmp_path / "in", tmp_path / "out") == 1
    shown = capsys.readouterr()
    assert (shown.out + shown.err).count("No checkpoint.") == 1
    assert "No checkpoint. Get one." in (tmp_path / "out" / "summary.csv").read_text("utf-8")


def test_unexpected_error_is_reported_and_the_rest_done(tmp_path, monkeypatch, capsys):
    (tmp_path / "in").mkdir()
    for name in ("a.png", "b.png"):
        write(tmp_path / "in" / name)
    monkeypatch.setattr(registry, "run", lambda *_: 1 / 0)
    assert run(tmp_path / "in", tmp_path / "out") == 1
    shown = capsys.readouterr()
    assert shown.out.count("failed: Unexpected error in Panoform: ZeroDivisionError") == 2
    assert "Traceback" in shown.err


@pytest.mark.parametrize("make", [False, True])
def test_no_folder_or_an_empty_one(tmp_path, capsys, make):
    if make:
        (tmp_path / "in").mkdir()
    assert run(tmp_path / "in", tmp_path / "out") == 1
    assert ("has no panoramas" if make else "There is no folder") in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_names_of_result_folders(tmp_path):
    for name in ("a.png", "b.EXR", "b.hdr", "c.d.jpg"):
        (tmp_path / name).touch()
    assert {source.name: name for source, name in panoramas.find(tmp_path).items()} == {
        "a.png": "a",
        "b.EXR": "b.EXR",
        "b.hdr": "b.hdr",
        "c.d.jpg": "c.d",
    }
    (tmp_path / "A.PNG.tif").touch()
    names = panoramas.find(tmp_path)
    assert (names[tmp_path / "a.png"], names[tmp_path / "A.PNG.tif"]) == ("a", "A.PNG.tif")


@pytest.mark.slow
def test_checks_need_no_torch(tmp_path):
    code = (
        "import sys\nfrom panoform.backend.cli.main import main\n"
        f"main(['batch', {str(tmp_path)!r}, '--out', {str(tmp_path / 'out')!r}])\nprint('torch' in sys.modules)"
    )
    output = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert output.strip() == "False"
