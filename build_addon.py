"""Build the installable extension: `python build_addon.py` writes its zips to dist/.

There are two zips, because one manifest can't list the binary wheels for all of Blender's Pythons (Blender 5.1 and
later reject wheels for other Pythons): `…-blender-4.2.zip` for 4.2 to 5.0, `…-blender-5.1.zip` for 5.1 and later. Each
contains the add-on, wheels of pyzmq and msgspec for all platforms, and the backend's wheel, which the add-on installs.

The wheels of pyzmq and msgspec are downloaded once, into build/wheels/. The zips are checked with Blender's official
validator, which is part of the bpy module; without bpy the check is skipped with a message.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib.util
import shutil
import subprocess
import sys
import tempfile
import tomllib
import zipfile
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parent
WHEELS = ROOT / "build" / "wheels"

PLATFORMS = {
    "windows": ["win_amd64"],
    "macos-arm64": ["macosx_14_0_arm64"],
    "macos-x64": ["macosx_14_0_x86_64"],
    "linux": ["manylinux_2_28_x86_64", "manylinux_2_26_x86_64", "manylinux_2_17_x86_64", "manylinux2014_x86_64"],
}
REQUIREMENTS = ("pyzmq", "msgspec")


class Target(NamedTuple):
    """One zip: the Blender versions it supports, and their Python versions."""

    blender_min: str
    #: First version that is not supported; None: all later ones are.
    blender_max: str | None
    pythons: tuple[str, ...]


TARGETS = (
    # Official builds use Python 3.11; Linux distributions build 4.2 to 5.0 with later Pythons too.
    Target("4.2.0", "5.1.0", ("311", "313")),
    Target("5.1.0", None, ("313", "314")),
)


def run(*command: str | Path) -> None:
    """Run a command; exit with its output if it fails."""
    done = subprocess.run([str(part) for part in command], cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"{done.stdout}{done.stderr}\nbuild_addon: command failed: {' '.join(map(str, command))}")


def pinned(requirement: str) -> str:
    """Return a requirement with its version from constraints.txt: "pyzmq" → "pyzmq==27.3.0"."""
    for line in (ROOT / "constraints.txt").read_text("utf-8").splitlines():
        if line.startswith(f"{requirement}=="):
            return line
    sys.exit(f"build_addon: constraints.txt doesn't pin {requirement}.")


def dependency_wheels(python: str) -> list[Path]:
    """Return the wheels of the add-on's requirements for one Python on all platforms; download missing ones."""
    found = []
    for platform, tags in PLATFORMS.items():
        folder = WHEELS / f"{python}-{platform}"
        patterns = {want: "{}-{}-*.whl".format(*want.split("==")) for want in map(pinned, REQUIREMENTS)}
        missing = [want for want, pattern in patterns.items() if not list(folder.glob(pattern))]
        if missing:
            print(f"downloading {' and '.join(missing)} for {platform}, Python {python}")
            options = ["--no-deps", "--only-binary=:all:", "--implementation", "cp", "--python-version", python]
            options += [option for tag in tags for option in ("--platform", tag)]
            folder.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(dir=folder) as fresh:  # another build may use the folder
                run(sys.executable, "-m", "pip", "download", "--quiet", *options, "--dest", fresh, *missing)
                for wheel in Path(fresh).glob("*.whl"):
                    wheel.replace(folder / wheel.name)
        found += [wheel for pattern in patterns.values() for wheel in folder.glob(pattern)]
    return found


def backend_wheel(folder: Path) -> Path:
    """Build the backend's wheel in `folder`, from a copy of the tree, as setuptools leaves and reuses build files."""
    tree = folder / "tree"
    for package in ("backend", "blender_addon", "shared"):
        shutil.copytree(ROOT / package, tree / package, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("LICENSE", "README.md", "pyproject.toml", "setup.py"):
        shutil.copy(ROOT / name, tree)
    options = ["--quiet", "--no-deps", "--no-build-isolation", "--wheel-dir", folder]
    run(sys.executable, "-m", "pip", "wheel", *options, tree)
    (wheel,) = folder.glob("panoform-*.whl")
    return wheel


def manifest(target: Target, wheels: list[str]) -> str:
    """Return the content of blender_manifest.toml for one target."""
    lines = (ROOT / "blender_addon" / "blender_manifest.toml").read_text("utf-8").splitlines()
    versions = [f'blender_version_min = "{target.blender_min}"']
    if target.blender_max:
        versions.append(f'blender_version_max = "{target.blender_max}"')
    listed = ["wheels = [", *(f'  "./wheels/{name}",' for name in wheels), "]"]
    first_table = next(i for i, line in enumerate(lines) if line.startswith("["))
    return "\n".join([*lines[1:first_table], *versions, *listed, "", *lines[first_table:], ""])


def build(target: Target, backend: Path, out: Path) -> Path:
    """Build one zip, reproducibly: the same tree gives the same bytes."""
    wheels = {wheel.name: wheel for python in target.pythons for wheel in dependency_wheels(python)}
    text = manifest(target, sorted(wheels))
    files: dict[str, bytes] = {
        "blender_manifest.toml": text.encode(),
        "__init__.py": b'from .blender_addon import register, unregister\n\n__all__ = ["register", "unregister"]\n',
        f"backend_wheel/{backend.name}": backend.read_bytes(),
        "backend_wheel/SHA256SUMS": f"{hashlib.sha256(backend.read_bytes()).hexdigest()}  {backend.name}\n".encode(),
        "backend_wheel/constraints.txt": (ROOT / "constraints.txt").read_bytes(),
    }
    for package in ("blender_addon", "shared"):
        for path in (ROOT / package).rglob("*.py"):
            files[path.relative_to(ROOT).as_posix()] = path.read_bytes()
    for name, path in wheels.items():
        files[f"wheels/{name}"] = path.read_bytes()

    version = tomllib.loads(text)["version"]
    short = target.blender_min.removesuffix(".0")
    path = out / f"panoform-{version}-blender-{short}.zip"
    out.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(path, "w") as archive:
        for name in sorted(files):
            packed = zipfile.ZIP_STORED if name.endswith(".whl") else zipfile.ZIP_DEFLATED  # wheels are zips
            archive.writestr(zipfile.ZipInfo(name), files[name], packed)
    return path


def validate(path: Path) -> bool:
    """Check a zip with Blender's validator; exit if it is rejected. Return False if the validator isn't installed."""
    spec = importlib.util.find_spec("bpy")
    if spec is None or spec.origin is None:
        return False
    (tool,) = Path(spec.origin).parent.glob("*/scripts/addons_core/bl_pkg/cli/blender_ext.py")
    run(sys.executable, tool, "validate", path)
    return True


def main() -> None:
    parser = argparse.ArgumentParser(description="Build the installable extension.")
    parser.add_argument("--out", type=Path, default=ROOT / "dist", help="folder for the zips (default: dist)")
    out = parser.parse_args().out.resolve()
    with tempfile.TemporaryDirectory(prefix="panoform-") as folder:
        backend = backend_wheel(Path(folder))
        for target in TARGETS:
            path = build(target, backend, out)
            checked = "valid" if validate(path) else "NOT CHECKED: the validator is part of bpy, which isn't installed"
            print(f"{path}  {path.stat().st_size / 1e6:.1f} MB, {checked}")


if __name__ == "__main__":
    main()
