"""Fixtures for texturing: tests/backend's tiny Stable Diffusion 2.1, and meshes."""

import backend_fixtures
import bpy
import numpy as np
import pytest

_fixtures = backend_fixtures.load()
tiny_sd21, multiview_adapters = _fixtures.tiny_sd21, _fixtures.multiview_adapters


@pytest.fixture
def set_up(addon, tiny_sd21, multiview_adapters):
    """Return the add-on's jobs, with the tiny checkpoints in the preferences."""
    chosen = bpy.context.preferences.addons["panoform"].preferences
    chosen.multiview_model, chosen.multiview_adapters = str(tiny_sd21), str(multiview_adapters)
    chosen.device, chosen.dtype = "cpu", "fp32"
    return addon


@pytest.fixture
def reference(scene):
    """A red disc on transparency, as an image of the file."""
    image = bpy.data.images.new("disc", 40, 40, alpha=True)
    y, x = np.mgrid[-1:1:40j, -1:1:40j]
    image.pixels.foreach_set(np.where((x**2 + y**2 < 0.7)[..., None], (0.8, 0.15, 0.1, 1), 0.0).astype("f").ravel())
    image.pack()
    return image
