"""The results of training, which never replace files unless the user asks for it."""

from __future__ import annotations

import argparse
import contextlib
from collections.abc import Iterator
from pathlib import Path

from ...shared import overwriting
from ...shared.atomic_write import writing


def add_overwrite(parser: argparse.ArgumentParser) -> None:
    """Add the option."""
    parser.add_argument("--overwrite", action="store_true", help="replace existing files")


def check(path: Path, *, overwrite: bool) -> None:
    """Raise OutputError where a result, a file or a folder, would replace files, unless `overwrite` is set."""
    is_folder = path.is_dir() and not path.suffix
    targets = (entry for entry in path.rglob("*") if not entry.is_dir()) if is_folder else [path]
    overwriting.check(targets, lambda _: False, overwrite=overwrite)


@contextlib.contextmanager
def file(path: Path, *, overwrite: bool) -> Iterator[Path]:
    """Yield the path of a draft, which is moved to `path` at the end. Raise OutputError (`check`)."""
    with writing(path.parent) as drafts:
        yield drafts / path.name
        check(path, overwrite=overwrite)


@contextlib.contextmanager
def folder(path: Path, *, overwrite: bool) -> Iterator[Path]:
    """Yield a draft folder, whose files are moved to `path` at the end. Raise OutputError (`check`)."""
    with writing(path) as drafts:
        yield drafts
        for draft in (entry for entry in drafts.rglob("*") if not entry.is_dir()):
            overwriting.check([path / draft.relative_to(drafts)], lambda _: False, overwrite=overwrite)
