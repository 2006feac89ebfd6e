"""What ships: the built zips, checked by Blender's own validator and installed into Blender."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import bpy
import pytest

from panoform.shared import VERSION

# Where build/wheels/ is empty, the first test downloads 24 wheels.
pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

ROOT = Path(__file__).resolve().parent.parent
SIDES = ("shared", "backend", "blender_addon")

INSTALL = """
import sys, bpy
bpy.ops.wm.read_factory_settings(use_empty=True)
bpy.ops.extensions.package_install_files(filepath=sys.argv[1], repo="user_default", enable_on_install=True)
assert hasattr(bpy.types.Scene, "panoform"), "the add-on did not register"
print("installed")
"""

#: The backend's wheel, whose bytes differ, and its SHA-256.
WHEEL = ("backend_wheel/panoform-", "backend_wheel/SHA256SUMS")

# These tests run where pyzmq and msgspec are installed, as Blender never does: look first where it unpacked the wheels.
OWN_WHEELS = """
import sys
sys.path.insert(0, sys.argv[1])
import zmq, msgspec
print(all(module.__file__.startswith(sys.argv[1]) for module in (zmq, msgspec)), len(zmq.curve_keypair()[0]))
"""


@pytest.fixture
def built(zips: Path) -> list[Path]:
    return sorted(zips.glob("*.zip"))


def manifest(path: Path) -> dict:
    with zipfile.ZipFile(path) as archive:
        return tomllib.loads(archive.read("blender_manifest.toml").decode())


def test_every_blender_since_4_2_has_exactly_one_zip(built):
    ranges = [(m["blender_version_min"], m.get("blender_version_max")) for m in map(manifest, built)]
    assert ranges == [("4.2.0", "5.1.0"), ("5.1.0", None)]


def test_all_say_the_same_version(built):
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]["version"]
    assert {project, *(manifest(path)["version"] for path in built)} == {VERSION}


def test_official_validator_accepts(built):
    tool = Path(bpy.utils.resource_path("LOCAL")) / "scripts" / "addons_core" / "bl_pkg" / "cli" / "blender_ext.py"
    for path in built:
        done = subprocess.run([sys.executable, str(tool), "validate", str(path)], capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr


def test_wheels_for_all_platforms_and_nothing_foreign(built):
    for path in built:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
        for requirement in ("pyzmq", "msgspec"):
            wheels = [name for name in names if name.startswith(f"wheels/{requirement}-")]
            for platform in (
                "win_amd64",
                "macosx.*(arm64|universal2)",
                "macosx.*(x86_64|universal2)",
                "manylinux.*x86_64",
            ):
                assert any(re.search(platform, wheel) for wheel in wheels), f"{requirement} for {platform}"
        tops = {name.split("/")[0] for name in names}
        assert tops == {"blender_manifest.toml", "__init__.py", "blender_addon", "shared", "backend_wheel", "wheels"}
        assert not [name for name in names if "__pycache__" in name]


def test_backend_wheel_carries_the_starter_and_no_tests(built):
    with zipfile.ZipFile(built[0]) as archive:
        (name,) = [name for name in archive.namelist() if name.endswith("none-any.whl")]
        with archive.open(name) as stream, zipfile.ZipFile(stream) as wheel:
            names = wheel.namelist()
    assert "panoform/backend/starter/panoform.json" in names
    assert "panoform/backend/pipelines/omnix.py" in names
    assert not [name for name in names if name.startswith(("panoform/tests", "panoform/backend/training", "tests"))]


def test_wheel_and_zips_hold_every_module_of_the_tree(built):
    """A sub-package that nobody lists is shipped all the same."""
    tree = {path.relative_to(ROOT).as_posix() for side in SIDES for path in (ROOT / side).rglob("*.py")}
    for path in built:
        with zipfile.ZipFile(path) as archive:
            names = set(archive.namelist())
            (name,) = [name for name in names if name.endswith("none-any.whl")]
            with archive.open(name) as stream, zipfile.ZipFile(stream) as wheel:
                shipped = {name.removeprefix("panoform/") for name in wheel.namelist() if name.endswith(".py")}
        assert shipped == {module for module in tree if not module.startswith("backend/training/")}
        in_blender = {module for module in tree if not module.startswith("backend/")}
        assert {name for name in names if name.endswith(".py")} == in_blender | {"__init__.py"}


def test_same_tree_same_bytes(built, tmp_path):
    subprocess.run(
        [sys.executable, str(ROOT / "build_addon.py"), "--out", str(tmp_path)], check=True, capture_output=True
    )
    with zipfile.ZipFile(built[0]) as first, zipfile.ZipFile(tmp_path / built[0].name) as again:
        own = [name for name in first.namelist() if not name.startswith(WHEEL)]
        assert own == [name for name in again.namelist() if not name.startswith(WHEEL)]
        assert all(first.read(name) == again.read(name) for name in own)


def python(script: str, argument: Path, **environment: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", script, str(argument)],
        env=os.environ | environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_installs_in_bpy_with_its_own_wheels(built, tmp_path):
    user = tmp_path / "user ü"
    assert "installed" in python(INSTALL, built[0], BLENDER_USER_RESOURCES=str(user))
    (wheels,) = user.glob("extensions/.local/lib/python*/site-packages")
    assert python(OWN_WHEELS, wheels).split() == ["True", "40"]
