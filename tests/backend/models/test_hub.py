"""Hub ids, their revisions, and the commits of downloaded files."""

from pathlib import Path

import pytest

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
