"""The option --preset of the verbs of `blender --command panoform`."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import bpy

from . import schema, store
from .schema import GeneratePreset, PerceivePreset, Preset

#: Verb → the kind of preset that it takes.
KINDS = {"perceive": "perceive", "batch": "perceive", "generate": "generate", "edit": "generate", "texture": "texture"}


def add(verb: argparse.ArgumentParser) -> None:
    """Add the option."""
    verb.add_argument("--preset", metavar="NAME|FILE", help="settings saved in the panel; given options come before it")


def defaults(verb: str, preset: str) -> dict[str, Any]:
    """Return the defaults of a verb's options: those of the preset, a file or the name of a saved one.

    Raise InputError, and SettingError for a name that no preset can have.
    """
    kind = KINDS[verb]
    is_file = preset.endswith(store.SUFFIX) or Path(preset).is_file()
    found = schema.read(Path(preset) if is_file else store.find(kind, preset))
    schema.check(bpy.context.scene, found, kind)
    return _options(found)


def _options(preset: Preset) -> dict[str, Any]:
    """Return values of options by their names in the parsed arguments; those of other verbs are ignored."""
    if isinstance(preset, PerceivePreset):
        return {
            "maps": ",".join(name.lower() for name in preset.maps), "quality": preset.quality,
            "engine": _engine(preset.engine), "repair": preset.repair, "kind": preset.kind,
            "triangles": preset.detail, "texture_width": preset.texture_width,
            "level_floor": preset.level_floor, "align_walls": preset.align_walls,
            "match_panorama": preset.match_panorama,
        }  # fmt: skip
    if isinstance(preset, GeneratePreset):
        return {
            "quality": preset.quality, "engine": _engine(preset.engine), "height": int(preset.size),
            "method": preset.method, "lora": preset.lora or None, "trigger": preset.trigger or None,
            "negative": preset.negative_prompt, "true_cfg": preset.true_cfg_scale,
            "guidance": preset.guidance_scale or None, "shift": preset.shift or None, "ldr": not preset.hdr,
            "measure_light": preset.measure_light, "seed": tuple(range(preset.count)),
            "sun_strength": preset.sun_strength, "sun_threshold": preset.sun_threshold,
        }  # fmt: skip
    return {
        "quality": preset.quality, "size": preset.size, "guidance": preset.guidance_scale,
        "upscale": preset.upscale, "negative": preset.negative_prompt,
    }  # fmt: skip


def _engine(choice: str) -> str | None:
    return None if choice == "AUTO" else choice.lower()
