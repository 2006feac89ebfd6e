"""Colours with another configuration of OpenColorIO, whose working space is ACEScg and whose names are others."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import picture_cases
import pytest

from panoform.blender_addon.capture import colour_management
from panoform.shared.protocol.errors import SceneError

TESTS = Path(__file__).parents[2]
ACES = "ocio://cg-config-v1.0.0_aces-v1.3_ocio-v2.1"
COLOUR = (0.692, 0.020, 0.013)


@pytest.mark.slow
def test_aces_configuration_gives_the_same_colours(tmp_path):
    hdri = picture_cases.write_hdr(tmp_path / "red.hdr", "-Y 16 +X 32", np.broadcast_to(COLOUR, (16, 32, 3)))
    out = tmp_path / "seen.json"
    subprocess.run(
        [sys.executable, TESTS / "blender_addon" / "ocio_probe.py", hdri, TESTS / "scenes" / "room", out],
        env=os.environ | {"OCIO": ACES}, check=True, capture_output=True, timeout=120,
    )  # fmt: skip
    seen = json.loads(out.read_text("utf-8"))
    working = picture_cases.converted(np.eye(3)[None], "ACEScg", "Linear Rec.709 (sRGB)")[0]
    np.testing.assert_allclose(seen["working"], working, atol=1e-3)
    for name in ("read", "shown", "of image", "linear", "srgb", "data"):
        np.testing.assert_allclose(seen[name], COLOUR, atol=5e-3, err_msg=name)  # RGBE has 8 bits
        np.testing.assert_allclose(seen[name], seen["read"], atol=1e-3, err_msg=name)
    assert seen["distance is data"]
    assert seen["world"] == "Panoform room"


def test_configuration_without_these_spaces_is_refused(monkeypatch):
    colour_management.check()
    monkeypatch.setattr(colour_management, "names", lambda: ["ACEScg", "Raw"])
    with pytest.raises(SceneError, match=r"no colour space for Linear Rec\.709") as caught:
        colour_management.check()
    assert "OCIO" in caught.value.hint
