"""Download files of the Hugging Face Hub, with progress, and translate its errors into messages with a hint."""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, wait
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

from huggingface_hub import constants, hf_hub_download, snapshot_download
from huggingface_hub.errors import (
    EntryNotFoundError,
    GatedRepoError,
    LocalEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from tqdm.auto import tqdm

from ...shared.atomic_write import DISK_FULL, MAKE_ROOM
from ...shared.protocol.errors import Cancelled, ModelError, PanoformError, WeightsError
from ..jobs.progress import ProgressReporter

_ID = re.compile(r"(?P<repo>[\w.-]+/[\w.-]+)(?:@(?P<revision>[\w./-]+))?", re.ASCII)
_COMMIT = re.compile(r"[0-9a-f]{40}")
_POLL_S = 0.5
#: Time until the hub must have answered; its library would try again for minutes.
CONTACT_S = 30.0
_MAX_CAUSES = 10
_TOKEN = "Check your access token (HF_TOKEN, or `hf auth login`)."
#: HTTP status → what it means, and what to do.
_ANSWERS = {
    401: ("a refusal: the access token is missing or invalid", _TOKEN),
    403: ("a refusal: the access token doesn't allow it", _TOKEN),
    404: ("that it has no such file", "Check the name."),
    407: ("a refusal of the proxy", "Check the proxy's settings."),
    429: ("that there were too many requests", "Wait some minutes."),
    451: ("that it may not give it to you", "Use another copy."),
}
_THREAD = "panoform-download"


def is_id(name: str) -> bool:
    """Return whether `name` is written as hub ids are: "owner/name", or with a revision, "owner/name@revision"."""
    return _ID.fullmatch(name) is not None


def split_id(name: str) -> tuple[str, str | None]:
    """Split a hub id into its repository and its revision: a branch, tag or commit, None where it has none."""
    match = _ID.fullmatch(name)
    if match is None:
        raise ValueError(f"{name} is no hub id.")
    return match["repo"], match["revision"]


def revision_of(path: Path) -> str | None:
    """Return the commit of a file or folder in the hub's cache (…/snapshots/COMMIT/…); None for any other path."""
    for parent, child in zip(path.parts, path.parts[1:], strict=False):
        if parent == "snapshots" and _COMMIT.fullmatch(child):
            return child
    return None


def pinned(name: str, path: Path) -> str:
    """Return the hub id `name` pinned to the revision of `path`, its downloaded file or folder."""
    commit = revision_of(path)
    return f"{split_id(name)[0]}@{commit}" if commit else name


def fetch(
    name: str,
    patterns: Sequence[str],
    instead: Path,
    reporter: ProgressReporter | None,
    failure: type[ModelError] = WeightsError,
) -> Path:
    """Return the folder, in the hub's cache, with the files of hub id `name` that match `patterns`.

    Missing files are downloaded, unless `reporter` is None; where the hub doesn't answer within CONTACT_S, the folder
    is returned as it is on this computer. `revision_of` returns the commit of the result. `instead` is the folder into
    which the user may copy them instead. The token is that of HF_TOKEN or of `hf auth login`.

    Raise `failure` where the download fails, and Cancelled from `reporter`.
    """
    repo, revision = split_id(name)
    bars: list[_Bar] = []
    stop = False

    class Bar(_Bar):
        def __init__(self, *args, **kwargs) -> None:
            super().__init__(*args, **kwargs)
            bars.append(self)

        def update(self, n: float | None = 1) -> None:
            if stop:
                raise Cancelled("The download was stopped.")
            super().update(n)

    def download(*, local_files_only: bool) -> str:
        return snapshot_download(
            repo,
            revision=revision,
            allow_patterns=list(patterns),
            tqdm_class=Bar,
            local_files_only=local_files_only,
        )

    future: Future[str] = Future()

    def run() -> None:
        try:
            future.set_result(download(local_files_only=reporter is None))
        except BaseException as error:
            future.set_exception(error)

    # A thread that is never joined, not even at exit: while the hub hangs, it can't be interrupted.
    threading.Thread(target=run, name=_THREAD, daemon=True).start()
    by_hand = f"Or download it in another way, and put it into {instead}."
    began = time.monotonic()
    try:
        if reporter:
            reporter.progress(f"Contacting {urlsplit(constants.ENDPOINT).netloc}", 0, 0, 0.0, None)
        while reporter and not wait([future], timeout=_POLL_S).done:
            if not bars:  # the hub has not listed the files yet
                reporter.check_cancelled()
                if time.monotonic() - began > CONTACT_S:
                    stop = True
                    with translate_errors(name, failure, by_hand, online=True):
                        return Path(download(local_files_only=True))
                continue
            # Newer versions count what arrives and what is written in a bar each.
            sizes = [(bar.n / 1e6, (bar.total or 0) / 1e6) for bar in bars if bar.unit == "B"]
            done, of = max(sizes, key=lambda pair: pair[1], default=(0, 0))
            left = (time.monotonic() - began) / done * (of - done) if done else None
            reporter.progress(f"Downloading {repo} (MB)", round(done), round(of), 0.0, left)
    except (Cancelled, KeyboardInterrupt):
        stop = True
        raise
    with translate_errors(name, failure, by_hand, online=reporter is not None):
        return Path(future.result())


def fetch_first(
    name: str, files: Sequence[str], *, token: str | None, local_files_only: bool, failure: type[ModelError]
) -> Path | None:
    """Return the path, in the hub's cache, of the first of `files` that the repository of hub id `name` has.

    It is downloaded where it is missing, unless `local_files_only`. None where the repository has none of them. Raise
    `failure` where the download fails.
    """
    repo, revision = split_id(name)
    unreachable: LocalEntryNotFoundError | None = None
    by_hand = f"Or download {files[0]} in another way, and name its folder."
    with translate_errors(name, failure, by_hand, online=not local_files_only):
        for file in files:
            try:
                return Path(
                    hf_hub_download(repo, file, revision=revision, token=token, local_files_only=local_files_only)
                )
            except LocalEntryNotFoundError as error:
                unreachable = error
            except EntryNotFoundError:
                continue
        if unreachable:
            raise unreachable
    return None


@contextmanager
def translate_errors(name: str, failure: type[ModelError], by_hand: str, *, online: bool) -> Iterator[None]:
    """Raise the errors of the hub's library as `failure`, with a hint what to do."""
    repo, revision = split_id(name)
    try:
        yield
    except PanoformError:
        raise
    except GatedRepoError as error:
        raise failure(
            f"{repo} is gated: the hub gives it only to those who accepted its licence.",
            f"Accept it at https://huggingface.co/{repo}, then save an access token in Panoform's preferences, or set "
            f"HF_TOKEN, or run `hf auth login`. {by_hand}",
        ) from error
    except RevisionNotFoundError as error:
        raise failure(f"{repo} has no revision {revision}.", "Check the name after the @, or leave it out.") from error
    except RepositoryNotFoundError as error:
        raise failure(
            f"There is neither a folder or file nor a hub repository {repo}.",
            "Check the name; for a private repository set HF_TOKEN or run `hf auth login`.",
        ) from error
    except LocalEntryNotFoundError as error:
        if online and (status := _status(error)):
            raise failure(*_refused(name, status, by_hand)) from error
        raise failure(
            f"{name} is not on this computer, and the hub can't be reached."
            if online
            else f"{name} is not on this computer.",
            f"{_connect() if online else 'The first job downloads it.'} {by_hand}",
        ) from error
    # Which exceptions a broken connection or a full disk raise depends on the version of the hub's library.
    except Exception as error:
        if status := _status(error):
            raise failure(*_refused(name, status, by_hand)) from error
        if isinstance(error, OSError) and error.errno in DISK_FULL:
            raise failure(f"The disk is full: {name} could not be downloaded.", MAKE_ROOM) from error
        raise failure(f"The hub did not deliver {name}: {error}", f"Try again. {by_hand}") from error


def _connect() -> str:
    if constants.HF_HUB_OFFLINE:
        return "Allow online access in Blender's Preferences ▸ System and stop the backend, or unset HF_HUB_OFFLINE."
    return "Connect to the internet once."


def _status(error: BaseException | None) -> int | None:
    """Return the HTTP status with which the hub refused, by an error or one of its causes; None where none did."""
    for _ in range(_MAX_CAUSES):
        if error is None:
            return None
        status = getattr(getattr(error, "response", None), "status_code", None)
        if isinstance(status, int) and status >= 400:
            return status
        error = error.__cause__ or error.__context__
    return None


def _refused(name: str, status: int, by_hand: str) -> tuple[str, str]:
    """Return message and hint for a request that the hub answered with an error."""
    reason, remedy = _ANSWERS.get(status, ("an error of its own" if status >= 500 else "an error", "Try again later."))
    return f"The hub answers a request for {name} with {reason} (HTTP {status}).", f"{remedy} {by_hand}"


class _Bar(tqdm):
    """A progress bar that counts but displays nothing."""

    def __init__(self, *args, **kwargs) -> None:
        super().__init__(*args, **kwargs | {"disable": False, "file": _NullStream()})

    def display(self, *args, **kwargs) -> None:
        pass


class _NullStream:
    def write(self, text: str) -> None:
        pass

    def flush(self) -> None:
        pass
