"""The kinds of map."""

import pytest

from panoform.shared import maps
from panoform.shared.protocol.errors import SettingError


def test_names_are_sorted_and_deduplicated():
    assert maps.check_names(["metallic", "distance", "metallic"]) == ("distance", "metallic")
    assert maps.check_names(maps.DEFAULT_MAPS) == maps.DEFAULT_MAPS


@pytest.mark.parametrize(
    ("names", "words"), [(["distance", "depth", "warmth"], "'depth', 'warmth'"), ([], "No map was asked for")]
)
def test_unknown_or_no_names_are_rejected(names, words):
    with pytest.raises(SettingError, match=words) as caught:
        maps.check_names(names)
    assert "distance, normal, albedo, roughness, metallic, semantic" in caught.value.hint


def test_kinds_have_matching_names_and_distinct_files():
    assert all(kind.name == name for name, kind in maps.MAPS.items())
    files = [kind.filename for kind in maps.MAPS.values()] + [maps.PANORAMA_FILENAME, maps.INFO_FILENAME]
    assert len(set(files)) == len(files)


def test_values_outside_zero_to_one_are_stored_as_exr():
    for kind in maps.MAPS.values():
        assert kind.filename.endswith(".exr" if "[0, 1]" not in kind.meaning else ".png")
