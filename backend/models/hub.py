"""Fetch files of a hub repository, with progress, and say what to do where the hub does not give them."""

from __future__ import annotations

import re
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from itertools import pairwise
from pathlib import Path

from huggingface_hub import snapshot_download
from huggingface_hub.errors import GatedRepoError, LocalEntryNotFoundError, RepositoryNotFoundError
from tqdm.auto import tqdm

from ...shared.protocol.errors import Cancelled, ModelError, WeightsError
from ..jobs.progress import ProgressReporter

_ID = re.compile(r"[\w.-]+/[\w.-]+", re.ASCII)
_SNAPSHOT = re.compile(r"[0-9a-f]{40}")
_POLL_S = 0.5
_THREAD = "panoform-download"


def is_id(name: str) -> bool:
    """Whether `name` is written as hub ids are: owner/name."""
    return _ID.fullmatch(name) is not None


def revision_of(path: Path) -> str | None:
    """Return the commit of a file or folder in the hub's cache; None for any other path."""
    parts = path.parts
    commits = [after for before, after in pairwise(parts) if before == "snapshots"]
    return commits[-1] if commits and _SNAPSHOT.fullmatch(commits[-1]) else None


def pinned(name: str, path: Path) -> str:
    """Return the hub id `name` with the revision that `path`, which was fetched for it, has."""
    revision = revision_of(path)
    return f"{name.partition('@')[0]}@{revision}" if revision else name


def fetch(
    repo: str,
    patterns: Sequence[str],
    instead: Path,
    reporter: ProgressReporter | None,
    failure: type[ModelError] = WeightsError,
) -> Path:
    """The folder, in the hub's cache, with the files of `repo` that match `patterns`; what is missing is downloaded.

    `instead`: where the user may put a copy by hand. Without a `reporter` nothing is downloaded.
    The token is HF_TOKEN's, or that of `hf auth login`.
    Raises `failure`, and Cancelled out of `reporter`.
    """
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

    by_hand = f"Or download it in another way, and put it into {instead}."
    began = time.monotonic()
    pool = ThreadPoolExecutor(1, _THREAD)
    future = pool.submit(
        snapshot_download, repo, allow_patterns=list(patterns), tqdm_class=Bar, local_files_only=reporter is None
    )
    # Nobody waits for the thread of a download that was stopped: while the hub hangs it hears of nothing.
    pool.shutdown(wait=False)
    try:
        while reporter and not wait([future], timeout=_POLL_S).done:
            done, of = (sum(getattr(bar, name) for bar in bars if bar.unit == "B") / 1e6 for name in ("n", "total"))
            left = (time.monotonic() - began) / done * (of - done) if done else None
            reporter.progress(f"Downloading {repo} (MB)", round(done), round(of), 0.0, left)
    except (Cancelled, KeyboardInterrupt):
        stop = True
        raise
    try:
        return Path(future.result())
    except GatedRepoError as error:
        raise failure(
            f"{repo} is gated: the hub gives it only to those who accepted its licence.",
            f"Accept it at https://huggingface.co/{repo}, then set HF_TOKEN or run `hf auth login`. {by_hand}",
        ) from error
    except RepositoryNotFoundError as error:
        raise failure(
            f"There is neither a folder or file nor a hub repository {repo}.",
            "Check the name; for a private repository set HF_TOKEN or run `hf auth login`.",
        ) from error
    except LocalEntryNotFoundError as error:
        raise failure(
            f"{repo} is not on this computer{', and the hub can not be reached' if reporter else ''}.",
            f"{'Connect to the internet once.' if reporter else 'The first job downloads it.'} {by_hand}",
        ) from error
    # Which exceptions a broken connection or a full disk raise changes with the hub library's version.
    except Exception as error:
        raise failure(f"The hub did not deliver {repo}: {error}", f"Try again. {by_hand}") from error


class _Bar(tqdm):
    """Counts, and draws nothing: what it counts goes to whoever watches the job."""

    def __init__(self, *args, **kwargs) -> None:
        super().__init__(*args, **kwargs | {"disable": False, "file": _Nowhere()})

    def display(self, *args, **kwargs) -> None:
        pass


class _Nowhere:
    def write(self, text: str) -> None:
        pass

    def flush(self) -> None:
        pass
