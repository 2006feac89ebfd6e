"""Files that are not Panoform's own are never replaced, under whatever name they are met."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from panoform.shared import overwriting, result_folder
from panoform.shared.protocol.errors import OutputError

posix_only = pytest.mark.skipif(os.name != "posix", reason="links need a privilege")


def refused(path: Path, *sources: Path, overwrite: bool = False) -> bool:
    try:
        overwriting.check([path], lambda _: True, sources, overwrite)
    except OutputError:
        return True
    return False


def test_free_names_and_own_files_are_allowed(tmp_path: Path) -> None:
    assert not refused(tmp_path / "new")
    (tmp_path / "own").touch()
    assert not refused(tmp_path / "own", tmp_path / "missing")
    (tmp_path / "folder").mkdir()
    assert refused(tmp_path / "folder", overwrite=True)


@pytest.mark.parametrize("name", ["a\0b", "n" * 300])
def test_sources_with_impossible_names_are_no_files(tmp_path: Path, name: str) -> None:
    (tmp_path / "own").touch()
    assert not refused(tmp_path / "own", tmp_path / name)


@posix_only
@pytest.mark.parametrize("overwrite", [False, True])
def test_a_source_is_known_by_every_name(tmp_path: Path, overwrite: bool) -> None:
    source, link, hard = tmp_path / "source", tmp_path / "link", tmp_path / "hard"
    source.write_text("mine")
    link.symlink_to(source)
    os.link(source, hard)
    for path in (source, link, hard, tmp_path / "." / ".." / tmp_path.name / "source"):
        for given in (source, link, hard):
            assert refused(path, given, overwrite=overwrite)


@pytest.mark.parametrize("overwrite", [False, True])
def test_all_files_of_a_folder_of_sources_are_sources(tmp_path: Path, overwrite: bool) -> None:
    file = tmp_path / "model" / "vae" / "config.json"
    file.parent.mkdir(parents=True)
    file.touch()
    assert refused(file, tmp_path / "model", overwrite=overwrite)
    assert not refused(file, tmp_path / "mod", overwrite=overwrite)
    assert not refused(file, tmp_path / "model" / "vae" / "more", overwrite=overwrite)


@posix_only
def test_links_of_the_user_are_kept(tmp_path: Path) -> None:
    """Also those that lead nowhere now, as to a disk that isn't mounted."""
    for name, target in (("broken", "none"), ("file", "own")):
        (tmp_path / "own").touch()
        (tmp_path / name).symlink_to(target)
        assert refused(tmp_path / name)
        assert not refused(tmp_path / name, overwrite=True)
    assert refused(tmp_path / "broken", tmp_path / "broken", overwrite=True)


@pytest.mark.parametrize("record", [b"", b"{}", b'{"maps": {"distance": ""}}', b"[" * 100_000, b"\xff\xfe{\x00}\x00"])
def test_records_of_others_prove_nothing(tmp_path: Path, record: bytes) -> None:
    (tmp_path / "maps.json").write_bytes(record)
    (tmp_path / "distance.exr").write_text("mine")
    with pytest.raises(OutputError, match=r"distance\.exr, maps\.json"):
        result_folder.check_files(tmp_path, ["distance"])


def test_a_result_that_a_killed_process_wrote_in_part_is_finished_first(tmp_path: Path) -> None:
    """It had moved one of its files; the folder is as atomic_write describes it."""
    draft = tmp_path / ".panoform-0123456789abcdef"
    draft.with_name(f"{draft.name}.lock").touch()
    moving = draft.with_name(f"{draft.name}.moving")
    moving.mkdir()
    (moving / "maps.json").write_text('{"panoform": "9", "frame": "", "maps": {"distance": ""}}')
    (tmp_path / "distance.exr").write_text("made")
    assert result_folder.check_files(tmp_path, ["distance"]) == set()
    assert {path.name for path in tmp_path.iterdir()} == {"distance.exr", "maps.json"}


def test_what_a_killed_process_left_is_settled_in_every_folder_before_its_files_are_judged(tmp_path: Path) -> None:
    """It had moved aside what it replaces, the record first."""
    folders = tmp_path / "a", tmp_path / "b"
    for folder in folders:
        aside = folder / ".panoform-0123456789abcdef.old"
        aside.mkdir(parents=True)
        (folder / ".panoform-0123456789abcdef.lock").touch()
        (aside / "record").write_text("own")
        (folder / "file").write_text("made")

    def is_own(path: Path) -> bool:
        return path.with_name("record").read_text() == "own"

    overwriting.check([folder / "file" for folder in folders], is_own)
    assert [*tmp_path.rglob(".panoform-*")] == []


def test_what_changed_since_is_the_users(tmp_path: Path) -> None:
    """The SHA-256 of "made" in the record is by another program."""
    digest = "ea0890697a77af0a2e054cccec587c8a42feb5cf38e778c6c6e2a96bfb945c0b"
    record = '{"panoform": "9", "frame": "", "maps": {"distance": "", "albedo": ""}, "unknown": 1, "files": %s}'
    (tmp_path / "maps.json").write_text(record % f'{{"distance.exr": "{digest}", "albedo.png": "{digest}"}}')
    for name in ("distance.exr", "albedo.png"):
        (tmp_path / name).write_text("made")
    assert result_folder.check_files(tmp_path, ["distance"]) == {"albedo.png"}
    (tmp_path / "albedo.png").write_text("painted by hand")
    with pytest.raises(OutputError, match=r"not a result of Panoform: albedo\.png\."):
        result_folder.check_files(tmp_path, ["distance"])
    assert result_folder.check_files(tmp_path, ["distance"], overwrite=True) == set()
    (tmp_path / "maps.json").write_text(record % "{}")  # an earlier version recorded no digests
    assert result_folder.check_files(tmp_path, ["distance"]) == {"albedo.png"}


def test_only_unchanged_files_of_a_result_are_its_own(tmp_path: Path) -> None:
    albedo = tmp_path / "albedo.png"
    albedo.write_bytes(b"model")
    assert not result_folder.is_own(albedo)  # no record
    digest = overwriting.sha256(albedo)
    record = {"panoform": "0.1.0", "frame": "", "maps": {"albedo": ""}, "files": {"albedo.png": digest}}
    (tmp_path / "maps.json").write_text(json.dumps(record))
    assert result_folder.is_own(albedo)
    albedo.write_bytes(b"painted")
    assert not result_folder.is_own(albedo)
    assert not result_folder.is_own(tmp_path / "normal.exr")
