"""Find the packages of the wheel; everything else is in pyproject.toml.

The repository's root is the package `panoform`, which setuptools' own `find` can't express.
"""

from setuptools import find_packages, setup

SIDES = ("shared", "backend", "blender_addon")
#: What made the starter needs a checkout: scenes, bpy, hours.
LEFT_OUT = ("backend.training", "backend.training.*")

found = find_packages(include=[*SIDES, *(f"{side}.*" for side in SIDES)], exclude=LEFT_OUT)
setup(packages=[f"panoform.{name}" for name in found])
