"""List the packages of the wheel; all other settings are in pyproject.toml.

The repository's root is the package `panoform`, which setuptools' `packages.find` can't express.
"""

from setuptools import find_packages, setup

PACKAGES = ("shared", "backend", "blender_addon")
#: Training needs a checkout and bpy, and isn't part of the wheel.
EXCLUDED = ("backend.training", "backend.training.*")

found = find_packages(include=[*PACKAGES, *(f"{package}.*" for package in PACKAGES)], exclude=EXCLUDED)
setup(packages=[f"panoform.{name}" for name in found])
