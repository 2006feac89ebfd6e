"""The kinds of map."""

import pytest

from panoform.shared import maps
from panoform.shared.protocol.errors import SettingError


def test_names_come_back_in_order_and_once():
    assert maps.check_names(["metallic", "distance", "metallic"]) == ("distance", "metallic")
    assert maps.check_names(maps.DEFAULT_MAPS) == maps.DEFAULT_MAPS


@pytest.mark.parametrize(
    ("names", "says"), [(["distance", "depth", "warmth"], "'depth', 'warmth'"), ([], "No map was asked for")]
)
def test_names_that_are_no_maps(names, says):
    with pytest.raises(SettingError, match=says) as caught:
        maps.check_names(names)
    assert "distance, normal, albedo, roughness, metallic, semantic" in caught.value.hint


def test_kinds_are_found_under_their_names_and_files_differ():
    assert all(kind.name == name for name, kind in maps.MAPS.items())
    files = [kind.filename for kind in maps.MAPS.values()] + [maps.PANORAMA_FILENAME, maps.INFO_FILENAME]
    assert len(set(files)) == len(files)


def test_only_floats_hold_what_leaves_zero_to_one():
    for kind in maps.MAPS.values():
        assert kind.filename.endswith(".exr" if "[0, 1]" not in kind.meaning else ".png")
