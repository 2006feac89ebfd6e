"""The add-on is no part of the installed package (it ships as an extension): let `panoform.blender_addon` be found."""

from pathlib import Path

import panoform

panoform.__path__ = [str(Path(__file__).resolve().parents[2])]
