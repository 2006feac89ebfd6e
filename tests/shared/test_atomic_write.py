"""Atomic writing of files, and reading of JSON with any content."""

from __future__ import annotations

import contextlib
import os
import stat
import subprocess
import sys
import tempfile
from pathlib import Path

import msgspec
import pytest

from panoform.shared import atomic_write as atomic_write_module
from panoform.shared import json_file
from panoform.shared.atomic_write import atomic_write, atomic_write_all, writing
from panoform.shared.file_lock import one_at_a_time
from panoform.shared.protocol.errors import OutputError

posix_only = pytest.mark.skipif(os.name != "posix", reason="POSIX permissions, links and limits")


def content(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}


def test_files_are_written_and_replaced(tmp_path: Path) -> None:
    atomic_write(tmp_path / "a", b"one\r\n\n")
    atomic_write_all({tmp_path / "a": b"two", tmp_path / "b": b"three"})
    assert content(tmp_path) == {"a": b"two", "b": b"three"}


def test_folders_are_created_only_on_request(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="can't be written") as caught:
        atomic_write(tmp_path / "x" / "y" / "a", b"1")
    assert caught.value.hint
    atomic_write(tmp_path / "x" / "y" / "a", b"1", make_folders=True)
    assert content(tmp_path / "x" / "y") == {"a": b"1"}


def test_other_files_are_not_changed(tmp_path: Path) -> None:
    (tmp_path / "a.part").write_bytes(b"mine")
    atomic_write(tmp_path / "a", b"1")
    assert content(tmp_path) == {"a.part": b"mine", "a": b"1"}


@posix_only
def test_links_are_replaced_and_not_followed(tmp_path: Path) -> None:
    (tmp_path / "mine").write_bytes(b"mine")
    (tmp_path / "a").symlink_to("mine")
    (tmp_path / "b").symlink_to(tmp_path)
    atomic_write_all({tmp_path / "a": b"1", tmp_path / "b": b"2"})
    assert content(tmp_path) == {"mine": b"mine", "a": b"1", "b": b"2"}


@pytest.mark.parametrize("order", [("a", "b"), ("b", "a")])
def test_no_file_is_written_if_one_fails(tmp_path: Path, order: tuple[str, str]) -> None:
    (tmp_path / "a").write_bytes(b"old")
    (tmp_path / "b").mkdir()
    with pytest.raises(OutputError, match="b can't be written"):
        atomic_write_all({tmp_path / name: b"new" for name in order})
    assert content(tmp_path) == {"a": b"old"}
    assert len(list(tmp_path.iterdir())) == 2


def test_interruption_leaves_no_temporary_file(tmp_path: Path) -> None:
    class Interrupting:
        def __buffer__(self, flags):
            raise KeyboardInterrupt

    with pytest.raises((KeyboardInterrupt, TypeError)):  # TypeError: before Python 3.12 it isn't a buffer
        atomic_write_all({tmp_path / "a": b"1", tmp_path / "b": Interrupting()})
    assert content(tmp_path) == {}


@pytest.mark.parametrize("names", [("a",), ("a", "b")])
def test_content_is_on_the_disk_before_it_has_its_name(tmp_path: Path, monkeypatch, names: tuple[str, ...]) -> None:
    """Else a power cut could leave an empty file under it; the folder is flushed afterwards."""
    flushed: list[int] = []
    moved: list[bool] = []
    replace = Path.replace

    def watched(path: Path, target: Path) -> Path:
        if path.is_file():
            moved.append(path.stat().st_ino in flushed)
            flushed.clear() if len(moved) == len(names) else None
        return replace(path, target)

    monkeypatch.setattr(os, "fsync", lambda handle: flushed.append(os.fstat(handle).st_ino))
    monkeypatch.setattr(Path, "replace", watched)
    atomic_write_all({tmp_path / name: b"new" for name in names})
    assert moved == [True] * len(names)
    assert os.name == "nt" or tmp_path.stat().st_ino in flushed


@posix_only
def test_permissions_are_set(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"open to all")
    atomic_write(tmp_path / "a", b"1", mode=0o600)
    assert stat.S_IMODE((tmp_path / "a").stat().st_mode) == 0o600
    (tmp_path / "plain").touch()
    atomic_write(tmp_path / "b", b"1")
    assert (tmp_path / "b").stat().st_mode == (tmp_path / "plain").stat().st_mode


@posix_only
def test_full_disk_is_reported_and_keeps_the_old_file(tmp_path: Path) -> None:
    """Simulate a full disk by a limit on the size of files."""
    (tmp_path / "a").write_bytes(b"old")
    code = (
        "import resource, sys, pathlib\n"
        "from panoform.shared.atomic_write import atomic_write\n"
        "from panoform.shared.protocol.errors import OutputError\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))\n"
        "try:\n    atomic_write(pathlib.Path(sys.argv[1]), bytes(100_000))\n"
        "except OutputError as error:\n    print(error)\n"
    )
    command = [sys.executable, "-c", code, str(tmp_path / "a")]
    output = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert "The disk is full" in output
    assert "Make room" in output
    assert content(tmp_path) == {"a": b"old"}


class Kind(msgspec.Struct):
    name: str


@pytest.mark.parametrize(
    "damaged",
    [b"", b"{", b"[1]", b'{"name": 1}', b'{"name": "\xff"}', "{'name': 'é'}".encode("utf-16"), b"[" * 100_000,
     b'{"other": ' * 100_000, b'{"name": "\\ud800"}'],
)  # fmt: skip
def test_invalid_json_raises_value_error(tmp_path: Path, damaged: bytes) -> None:
    (tmp_path / "x.json").write_bytes(damaged)
    with pytest.raises(ValueError):  # noqa: PT011 (the message is msgspec's)
        json_file.read(tmp_path / "x.json", Kind)


def test_valid_json_is_decoded(tmp_path: Path) -> None:
    (tmp_path / "x.json").write_text('{"name": "é", "new": 1}', encoding="utf-8")
    assert json_file.read(tmp_path / "x.json", Kind) == Kind("é")


_KILLED = """
import os, pathlib, sys
from panoform.shared import atomic_write

at, moves = int(sys.argv[2]), 0

def count(move):
    def counted(*arguments):
        global moves
        moves += 1
        if moves > at:
            os.kill(os.getpid(), 9)
        return move(*arguments)
    return counted

pathlib.Path.replace, pathlib.Path.rename = count(pathlib.Path.replace), count(pathlib.Path.rename)
with atomic_write.writing(pathlib.Path(sys.argv[1]), last="record", remove=["outdated"]) as draft:
    (draft / "inner").mkdir()
    for name in ("a", "inner/b", "record"):
        (draft / name).write_text("new")
"""


@posix_only
@pytest.mark.slow
def test_what_a_killed_process_began_is_finished_or_undone(tmp_path: Path) -> None:
    """Kill the process before each of the moves; three files and one that is removed move aside, three into place."""
    old = {"a": "old", "inner/b": "old", "record": "old", "outdated": "old", "mine": "mine"}
    new = {"a": "new", "inner/b": "new", "record": "new", "mine": "mine"}
    for at in range(8):
        folder = tmp_path / str(at)
        (folder / "inner").mkdir(parents=True)
        for name, text in old.items():
            (folder / name).write_text(text)
        assert subprocess.run([sys.executable, "-c", _KILLED, str(folder), str(at)], check=False).returncode == -9
        atomic_write(folder / "next", b"")  # by the next process
        (folder / "next").unlink()
        found = {path.relative_to(folder).as_posix(): path.read_text() for path in folder.rglob("*") if path.is_file()}
        assert found == (old if at < 5 else new)


def test_drafts_of_a_living_process_and_the_users_files_stay(tmp_path: Path) -> None:
    name = ".panoform-0123456789abcdef"
    (tmp_path / f"{name}.old").mkdir()
    (tmp_path / f"{name}.old" / "mine").write_text("mine")
    (tmp_path / f"{name}.part").write_text("mine")
    with writing(tmp_path) as draft:
        (draft / "a").write_text("1")
        atomic_write(tmp_path / "b", b"2")
        assert (draft / "a").exists()
    assert content(tmp_path) == {"a": b"1", "b": b"2", f"{name}.part": b"mine"}
    assert (tmp_path / f"{name}.old" / "mine").read_text() == "mine"  # without a lock it is nobody's draft


@posix_only
def test_planted_drafts_reach_nothing_outside(tmp_path: Path) -> None:
    """Links in a folder from elsewhere, as those of a killed process, are not followed."""
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "a").write_text("mine")
    folder = tmp_path / "out"
    folder.mkdir()
    for number, kind in enumerate(("", ".old", ".moving")):
        name = f".panoform-{number:016x}"
        (folder / f"{name}.lock").touch()
        (folder / f"{name}{kind}").symlink_to(tmp_path / "mine")
    (folder / f".panoform-{9:016x}.lock").symlink_to(tmp_path / "mine" / "a")
    atomic_write(folder / "b", b"1")
    assert (tmp_path / "mine" / "a").read_text() == "mine"
    assert content(folder)["b"] == b"1"
    assert not (folder / "a").exists()


@posix_only
def test_links_to_folders_are_not_followed(tmp_path: Path) -> None:
    home, folder = tmp_path / "home", tmp_path / "out"
    home.mkdir()
    folder.mkdir()
    (home / "a").write_text("mine")
    (folder / "inner").symlink_to(home)
    name = f".panoform-{1:016x}"
    (folder / f"{name}.lock").touch()
    (folder / f"{name}.moving" / "inner").mkdir(parents=True)
    (folder / f"{name}.moving" / "inner" / "b").write_text("planted")

    def write() -> None:
        with writing(folder) as draft:
            (draft / "inner").mkdir()
            (draft / "inner" / "a").write_text("new")

    with pytest.raises(OutputError, match="inner is a link"):
        write()
    assert content(home) == {"a": b"mine"}


def test_files_of_several_folders_are_written_each_to_its_own(tmp_path: Path) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    atomic_write_all({one / "a": b"1", two / "b": b"2", one / "c": b"3"}, make_folders=True)
    assert (content(one), content(two)) == ({"a": b"1", "c": b"3"}, {"b": b"2"})
    (two / "b").unlink()
    (two / "b").mkdir()
    with pytest.raises(OutputError, match="is a folder"):
        atomic_write_all({two / "b": b"4", one / "a": b"4"})


@pytest.mark.parametrize("second", range(1, 8))
def test_interruption_while_files_are_moved_back_loses_none(tmp_path: Path, monkeypatch, second: int) -> None:
    """Three files move aside, the drafts, and two of three into place; then come two interruptions."""
    for name in "abc":
        (tmp_path / name).write_text("old")
    replace, moves = Path.replace, 0

    def interrupted(self: Path, target: Path) -> Path:
        nonlocal moves
        moves += 1
        if moves in (7, 7 + second):
            raise KeyboardInterrupt
        return replace(self, target)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", interrupted)
        with pytest.raises(KeyboardInterrupt):
            atomic_write_all({tmp_path / name: b"new" for name in "abc"})
    atomic_write(tmp_path / "next", b"")
    found = content(tmp_path)
    assert set(found) == {"a", "b", "c", "next"}
    assert {found[name] for name in "abc"} in ({b"old"}, {b"new"})
    assert not list(tmp_path.glob(".*"))


def test_previous_file_whose_place_was_taken_is_kept(tmp_path: Path, monkeypatch) -> None:
    for name in "abc":
        (tmp_path / name).write_text("old")
    replace, moves = Path.replace, 0

    def failing(self: Path, target: Path) -> Path:
        nonlocal moves
        moves += 1
        if moves == 5:
            (tmp_path / "b").write_text("mine")
            raise OSError(28, "No space left on device")
        return replace(self, target)

    monkeypatch.setattr(Path, "replace", failing)
    with pytest.raises(OutputError, match="b could not be moved back") as caught:
        atomic_write_all({tmp_path / name: b"new" for name in "abc"})
    assert content(tmp_path) == {"a": b"old", "b": b"mine", "c": b"old"}
    (kept,) = tmp_path.glob(".*")
    assert content(kept) == {"b": b"old"}
    assert str(kept) in caught.value.hint


@posix_only
def test_folder_that_can_be_written_but_not_listed() -> None:
    with tempfile.TemporaryDirectory() as name:  # other users can't reach pytest's folders
        folder, root = Path(name), os.geteuid() == 0
        folder.chmod(0o733 if root else 0o300)
        if root:
            os.seteuid(65534)
        try:
            with pytest.raises(PermissionError):
                list(folder.iterdir())
            atomic_write(folder / "a", b"1")
            atomic_write(folder / "a", b"2")
        finally:
            if root:
                os.seteuid(0)
            folder.chmod(0o700)
        assert content(folder) == {"a": b"2"}


WRITE = """
import sys
from pathlib import Path
from panoform.shared.atomic_write import atomic_write_all
folder, content, pauses = Path(sys.argv[1]), sys.argv[2].encode(), sys.argv[3] == "pauses"
replace = Path.replace
def paused(self, target):
    if self.name == "c" and ".moving" in str(self):
        print("here", flush=True)
        sys.stdin.readline()
    return replace(self, target)
if pauses:
    Path.replace = paused
atomic_write_all({folder / name: content for name in "abcde"})
"""


@pytest.mark.slow
@pytest.mark.skipif(os.name == "nt", reason="Folders have no locks.")
def test_of_two_processes_that_write_the_same_files_one_wins(tmp_path: Path) -> None:
    """The second one writes while the first has moved half of its files."""
    atomic_write_all({tmp_path / name: b"before" for name in "abcde"})

    def start(content: str, how: str) -> subprocess.Popen[str]:
        command = [sys.executable, "-c", WRITE, str(tmp_path), content, how]
        return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    with start("first", "pauses") as first:
        assert first.stdout is not None
        assert first.stdout.readline() == "here\n"
        with start("second", "") as second:
            with contextlib.suppress(subprocess.TimeoutExpired):
                second.wait(3)  # ample to write five files, were it not to wait
            first.communicate("\n")
    assert (first.returncode, second.returncode) == (0, 0)
    assert len({entry.read_bytes() for entry in tmp_path.iterdir()}) == 1
    assert sorted(entry.name for entry in tmp_path.iterdir()) == [*"abcde"]


def test_process_that_does_not_end_is_not_waited_for_for_ever(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(atomic_write_module, "_PATIENCE_S", 0.05)
    with one_at_a_time(tmp_path, 0):
        if os.name == "nt":
            return
        with pytest.raises(OutputError, match="another process writes"):
            atomic_write_all({tmp_path / "a": b"", tmp_path / "b": b""})
    assert [*tmp_path.iterdir()] == []
