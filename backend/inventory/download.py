"""Download weights into the models' folder: file by file, resumed where they were stopped, and checked by their sums.

`huggingface_hub` lists and transfers; its own cache neither resumes a file in a later process nor checks sums of what
arrives by plain HTTP. Until all files are complete they are in a folder beside, "FLUX.1-dev (incomplete)".
"""

from __future__ import annotations

import hashlib
import os
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple, cast

from huggingface_hub import HfApi, constants, hf_hub_url
from huggingface_hub.file_download import http_get
from huggingface_hub.utils import build_hf_headers, disable_progress_bars, filter_repo_objects

from ...shared.atomic_write import MAKE_ROOM, output_error
from ...shared.file_errors import display_name
from ...shared.file_lock import try_lock
from ...shared.jobs.models import DownloadReply, DownloadRequest, check_download
from ...shared.protocol.errors import BusyError, OutputError, WeightsError
from ...shared.weights import WEIGHTS, WeightsSpec, gigabytes
from ..jobs.progress import ProgressReporter
from ..models import hub
from ..models.cache import ModelCache
from ..models.folders import models_folder

_CHUNK = 2**22


class RemoteFile(NamedTuple):
    """A file of a repository."""

    name: str
    size: int
    #: SHA-256 of a large file; "" for one that git itself stores, by `git_sha1` of a header and the content.
    sha256: str
    git_sha1: str


def incomplete_folder(spec: WeightsSpec) -> Path:
    """Return the folder with the files of a download that has not ended."""
    return models_folder() / f"{spec.folder} (incomplete)"


def run(request: DownloadRequest, models: ModelCache, reporter: ProgressReporter) -> DownloadReply:
    """Download what is missing of the weights that `request` names.

    Raise SettingError for unknown weights; WeightsError where the hub doesn't deliver them, or damaged; OutputError
    where the disk has too little room; BusyError where another process downloads them; Cancelled from `reporter`. What
    has arrived is kept for the next try.
    """
    check_download(request)
    began = time.monotonic()
    spec = WEIGHTS[request.weights]
    name = request.repository or spec.repository
    folder, draft = models_folder() / spec.folder, incomplete_folder(spec)
    by_hand = f"Or download it in another way, and put it into {folder}."
    if constants.HF_HUB_OFFLINE:
        raise WeightsError(
            f"{name} is not downloaded, as this backend may not use the internet (HF_HUB_OFFLINE).",
            "Allow online access in Blender's Preferences ▸ System, then stop the backend and try again.",
        )
    reporter.progress("Contacting the hub", 0, 0, 0.0, None)
    with _locked(draft, spec.label), hub.translate_errors(name, WeightsError, by_hand, online=True):
        revision, files = _list(name, spec)
        missing = [file for file in files if not _is_complete(folder / file.name, file)]
        _check_free(folder, missing)
        _check_space(draft, missing)
        _fetch(name, revision, missing, draft, reporter)
        _move(draft, folder, missing)
    size = sum(file.size for file in files)
    return DownloadReply(id=request.id, path=str(folder), bytes=size, seconds=time.monotonic() - began)


@contextmanager
def _locked(draft: Path, label: str) -> Iterator[None]:
    """Keep other processes from writing to `draft`. Raise BusyError where one does, OutputError."""
    lock = draft.with_name(f".{draft.name}.lock")  # never deleted: another process may be waiting for this very file
    try:
        lock.parent.mkdir(parents=True, exist_ok=True)
        stream = lock.open("wb")
    except OSError as error:
        raise output_error(lock, error) from error
    with stream:
        if not try_lock(stream.fileno()):
            raise BusyError(f"{label} is being downloaded by another program.", "Wait until it has ended.")
        yield


def _list(name: str, spec: WeightsSpec) -> tuple[str, list[RemoteFile]]:
    """Return the repository's commit, and the files that are needed."""
    repository, revision = hub.split_id(name)
    found = HfApi(endpoint=constants.ENDPOINT).model_info(
        repository, revision=revision, files_metadata=True, timeout=hub.CONTACT_S
    )
    siblings = {sibling.rfilename: sibling for sibling in found.siblings or []}
    names = list(filter_repo_objects(siblings, allow_patterns=list(spec.files)))
    if spec.instead and not any(name.startswith("unet/") and name.endswith(".safetensors") for name in names):
        names = list(filter_repo_objects(siblings, allow_patterns=list(spec.instead)))
    if not names or found.sha is None:
        raise WeightsError(f"{name} has none of the files of {spec.label}.", "Check the repository's name.")
    chosen = [siblings[name] for name in names]
    # The small ones first: a mistake shows before gigabytes have arrived.
    files = [RemoteFile(s.rfilename, s.size or 0, s.lfs.sha256 if s.lfs else "", s.blob_id or "") for s in chosen]
    if any(Path(file.name).is_absolute() or ".." in Path(file.name).parts for file in files):
        raise WeightsError(f"{name} names files outside its folder.", "Use another repository.")
    return found.sha, sorted(files, key=lambda file: file.size)


def _is_complete(path: Path, file: RemoteFile) -> bool:
    return path.is_file() and path.stat().st_size == file.size


def _check_free(folder: Path, missing: Sequence[RemoteFile]) -> None:
    """Raise OutputError where a file would be replaced: downloads appear whole, so that it is the user's."""
    for file in missing:
        if os.path.lexists(path := folder / file.name):
            raise OutputError(
                f"{display_name(path)} is there, but is another file than the hub's ({file.size:,} bytes).",
                "Move it away, and try again.",
            )


def _check_space(draft: Path, missing: Sequence[RemoteFile]) -> None:
    """Raise OutputError where the disk of `draft` has no room for what has not arrived yet."""
    needed = sum(file.size - _size(draft / file.name) for file in missing)
    existing = next(folder for folder in draft.parents if folder.exists())
    free = shutil.disk_usage(existing).free
    if needed > free:
        raise OutputError(
            f"The download needs {gigabytes(needed)}, and {gigabytes(free)} are free on the disk of {draft.parent}.",
            f"{MAKE_ROOM} PANOFORM_MODELS names another one.",
        )


def _fetch(name: str, revision: str, missing: Sequence[RemoteFile], draft: Path, reporter: ProgressReporter) -> None:
    """Download the files into `draft`, and compare their sums."""
    disable_progress_bars()  # theirs; ours is `reporter`
    headers = build_hf_headers()
    total = sum(file.size for file in missing)
    arrived = {file.name: min(_size(draft / file.name), file.size) for file in missing}
    began, before = time.monotonic(), sum(arrived.values())

    def report(file: RemoteFile, size: int) -> None:
        arrived[file.name] = size
        done = sum(arrived.values())
        seconds, new = time.monotonic() - began, done - before
        left = seconds / new * (total - done) if new > 0 else None
        megabytes = round(done / 1e6), round(total / 1e6)
        reporter.progress(f"Downloading {name} (MB)", *megabytes, done / total if total else 1.0, left)

    for file in missing:
        path = draft / file.name
        path.parent.mkdir(parents=True, exist_ok=True)
        if _size(path) > file.size:
            path.unlink()
        if _size(path) < file.size or not path.exists():
            url = hf_hub_url(hub.split_id(name)[0], file.name, revision=revision, endpoint=constants.ENDPOINT)
            with path.open("ab") as stream:
                counted = _Counted(stream, lambda size, file=file: report(file, size))
                http_get(
                    url, cast("BinaryIO", counted), resume_size=stream.tell(), headers=headers, expected_size=file.size
                )
        reporter.progress(f"Checking {name}", 0, 0, sum(arrived.values()) / max(total, 1), None)
        if not _has_sum(path, file, reporter):
            path.unlink()
            raise WeightsError(f"{file.name} of {name} arrived damaged.", "Try again: only this file is missing.")


class _Counted:
    """A file that calls `arrived` with its size after each write, which may raise."""

    def __init__(self, stream: BinaryIO, arrived: Callable[[int], None]) -> None:
        self._stream, self._arrived = stream, arrived

    def write(self, data: bytes) -> int:
        written = self._stream.write(data)
        self._arrived(self._stream.tell())
        return written

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def _has_sum(path: Path, file: RemoteFile, reporter: ProgressReporter) -> bool:
    """Return whether a file has the sum that the hub names."""
    of_git = hashlib.sha1(f"blob {file.size}\0".encode(), usedforsecurity=False)
    digest = hashlib.sha256() if file.sha256 else of_git
    with path.open("rb") as stream:
        while chunk := stream.read(_CHUNK):
            digest.update(chunk)
            reporter.check_cancelled()
    return digest.hexdigest() == (file.sha256 or file.git_sha1)


def _move(draft: Path, folder: Path, files: Sequence[RemoteFile]) -> None:
    """Move the complete files into the folder of the weights."""
    if not files:
        return
    if not folder.exists():
        draft.rename(folder)
        return
    for file in files:
        target = folder / file.name
        target.parent.mkdir(parents=True, exist_ok=True)
        (draft / file.name).replace(target)
    shutil.rmtree(draft)


def _size(path: Path) -> int:
    return path.stat().st_size if path.is_file() else 0
