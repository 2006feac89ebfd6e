"""Files are written atomically, all or none."""

import os
import sys
from pathlib import Path

import pytest

from panoform.backend.io import atomic
from panoform.shared.protocol.errors import OutputError


def contents(directory):
    return {
        file.relative_to(directory).as_posix(): file.read_bytes() for file in directory.rglob("*") if file.is_file()
    }


def write(directory, names="abz", text=b"new", **options):
    with atomic.writing(directory, **options) as draft:
        for name in names:
            (draft / name).write_bytes(text)


@pytest.fixture
def moves(monkeypatch):
    """Record (source, target) of every move; raise `error` at move number `fail`."""
    replace = Path.replace

    class Moves(list):
        fail = -1
        error: type[BaseException] = PermissionError

        def __call__(self, source, target):
            self.append((source, target))
            if len(self) - 1 == self.fail:
                raise self.error(13, "Permission denied")
            replace(source, target)

    recorded = Moves()
    monkeypatch.setattr(Path, "replace", lambda source, target: recorded(source, target))
    return recorded


def test_files_and_folders_are_written_without_leftovers(tmp_path):
    folder = tmp_path / "new" / "föld er"
    with atomic.writing(folder) as draft:
        assert draft.parent == folder
        (draft / "inner").mkdir()
        (draft / "inner" / "a").write_bytes(b"1")
        (draft / "b").write_bytes(b"2")
    assert contents(tmp_path) == {"new/föld er/inner/a": b"1", "new/föld er/b": b"2"}
    assert sorted(entry.name for entry in folder.iterdir()) == ["b", "inner"]


def test_last_entry_is_written_last_and_removed_first(tmp_path, moves):
    write(tmp_path, "abz", last="a")
    write(tmp_path, "abz", b"newer", last="a")
    written = [target.name for _, target in moves if target.parent == tmp_path and target.suffix != ".moving"]
    removed = [source.name for source, target in moves if source.parent == tmp_path and target.suffix != ".moving"]
    assert written == ["b", "z", "a"] * 2
    assert removed == ["a", "z", "b"]
    assert set(contents(tmp_path).values()) == {b"newer"}


def test_single_file_is_replaced_in_one_move(tmp_path, moves):
    write(tmp_path, "a", b"old")
    write(tmp_path, "a")
    assert len(moves) == 2
    assert contents(tmp_path) == {"a": b"new"}


def test_entries_are_removed_in_the_same_step(tmp_path):
    write(tmp_path, "abc", b"old")
    write(tmp_path, "b", remove=["a", "absent"])
    assert contents(tmp_path) == {"b": b"new", "c": b"old"}


# 3 files are moved aside, with one removed 4, and 3 into place.
@pytest.mark.parametrize("fail", range(7))
@pytest.mark.parametrize("error", [PermissionError, KeyboardInterrupt])
def test_failed_move_restores_the_folder(tmp_path, moves, fail, error):
    write(tmp_path, "abdz", b"old")
    (tmp_path / "mine").write_bytes(b"mine")
    before = contents(tmp_path)
    moves.clear()
    moves.fail, moves.error = fail, error
    with pytest.raises(OutputError if error is PermissionError else error):
        write(tmp_path, "abz", remove=["d"], last="a")
    assert contents(tmp_path) == before
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["a", "b", "d", "mine", "z"]


@pytest.mark.parametrize("fail", range(3))
def test_failed_move_leaves_no_new_folder(tmp_path, moves, fail):
    moves.fail = fail
    with pytest.raises(OutputError, match="can't be written"):
        write(tmp_path / "new" / "folder")
    assert not list(tmp_path.iterdir())


def test_exception_in_the_block_leaves_no_files(tmp_path):
    def failing_block():
        with atomic.writing(tmp_path / "new") as draft:
            (draft / "a").write_bytes(b"1")
            raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        failing_block()
    assert not list(tmp_path.iterdir())


def test_folder_is_not_replaced_by_a_file(tmp_path):
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "mine").write_bytes(b"mine")
    with pytest.raises(OutputError, match="b is a folder"):
        write(tmp_path)
    assert contents(tmp_path) == {"b/mine": b"mine"}


def test_check_writable_leaves_no_files(tmp_path):
    atomic.check_writable(tmp_path / "a" / "b")
    atomic.check_writable(tmp_path)
    assert not list(tmp_path.iterdir())


@pytest.mark.skipif(sys.platform == "win32", reason="folders can't be flushed there, nor need to be")
def test_files_are_flushed_before_and_the_folder_after_the_moves(tmp_path, moves, monkeypatch):
    fsync, flushed = os.fsync, []

    def record(handle):
        flushed.append((os.fstat(handle).st_ino, len(moves)))
        fsync(handle)

    monkeypatch.setattr(os, "fsync", record)
    write(tmp_path, "ab")
    for name in "ab":
        assert ((tmp_path / name).stat().st_ino, 0) in flushed
    assert flushed[-1] == (tmp_path.stat().st_ino, len(moves))
