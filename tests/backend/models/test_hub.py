"""Hub ids, their revisions, and the commits of downloaded files."""

from pathlib import Path

import huggingface_hub
import numpy as np
import pytest
from hub_server import serving

from panoform.backend.jobs.progress import Silent
from panoform.backend.models import hub

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.mark.parametrize(
    ("name", "parts"),
    [
        ("KevinHuang/OmniX", ("KevinHuang/OmniX", None)),
        ("black-forest-labs/FLUX.1-dev", ("black-forest-labs/FLUX.1-dev", None)),
        (f"owner/name@{COMMIT}", ("owner/name", COMMIT)),
        ("owner/name@refs/pr/1", ("owner/name", "refs/pr/1")),
    ],
)
def test_hub_ids_are_split(name, parts):
    assert hub.is_id(name)
    assert hub.split_id(name) == parts


@pytest.mark.parametrize(
    "name", ["", "name", "/models/FLUX", "C:\\models", "a/b/c", "a/b@", "a@b/c", "~/FLUX", "a/b c"]
)
def test_other_names_are_not_hub_ids(name):
    assert not hub.is_id(name)
    with pytest.raises(ValueError, match="no hub id"):
        hub.split_id(name)


def test_revision_of_returns_the_commit_of_a_snapshot():
    folder = Path("/home/user/.cache/huggingface/hub/models--owner--name/snapshots") / COMMIT
    assert hub.revision_of(folder) == COMMIT
    assert hub.revision_of(folder / "transformer" / "config.json") == COMMIT
    for other in (folder.parent, Path("/models/FLUX.1-dev"), folder.parent / "main", folder.parents[1] / COMMIT):
        assert hub.revision_of(other) is None


def test_fetch_goes_on_where_the_connection_was_lost(tmp_path, monkeypatch):
    """Within one call, that is: the library's cache drops what has arrived when that fails in the end."""
    content = np.random.default_rng(0).bytes(50_000)
    for name in ("NO_PROXY", "no_proxy"):
        monkeypatch.setenv(name, "127.0.0.1")
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(huggingface_hub.constants, "DOWNLOAD_CHUNK_SIZE", 1000)
    with serving() as server:
        server.repositories["owner/name"] = {"large.safetensors": content, "other.txt": b"not wanted"}
        monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", server.endpoint)
        template = f"{server.endpoint}/{{repo_id}}/resolve/{{revision}}/{{filename}}"
        monkeypatch.setattr(huggingface_hub.constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)

        def fetch() -> Path:
            return hub.fetch("owner/name", ["*.safetensors"], tmp_path / "instead", Silent())

        server.drops = 3
        folder = fetch()
        assert (folder / "large.safetensors").read_bytes() == content
        assert hub.revision_of(folder) == COMMIT
        files, starts = zip(*server.sent, strict=True)
        assert set(files) == {"large.safetensors"}
        assert starts == (None, "bytes=25000-", "bytes=37000-", "bytes=43000-"), "whole chunks are kept"
        fetch()
        assert len(server.sent) == len(files), "what is here is not fetched again"
