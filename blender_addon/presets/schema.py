"""What presets hold: JSON of known fields with bounds, never code (Blender's own presets are Python files, and run).

They hold how something is made, not of what: no source, prompt, seed or size of a scene, and nothing of this computer.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Any

import bpy
import msgspec

from ...shared import json_file
from ...shared.engines import MAX_GUIDANCE
from ...shared.jobs.generate import MAX_SEEDS
from ...shared.protocol.errors import InputError, SettingError

KINDS = ("perceive", "generate", "texture")
#: Larger files are no presets.
_MAX_BYTES = 2**16
_HUB_ID = re.compile(r"[\w.-]{1,96}/[\w.-]{1,96}(@[\w.-]{1,96})?")

_Text = Annotated[str, msgspec.Meta(max_length=2000)]
_Choice = Annotated[str, msgspec.Meta(max_length=64)]
_Guidance = Annotated[float, msgspec.Meta(ge=0, le=MAX_GUIDANCE)]


class _Preset(msgspec.Struct, forbid_unknown_fields=True, kw_only=True, tag_field="panoform_preset"):
    """Fields are properties of the panel, by name.

    One that is added later needs a default, as older files don't have it.
    """


class PerceivePreset(_Preset, tag="perceive"):
    """How maps are perceived and a scene is built from them."""

    maps: Annotated[list[_Choice], msgspec.Meta(min_length=1, max_length=16)]
    quality: _Choice
    engine: _Choice
    repair: bool
    kind: _Choice
    #: Triangles at most.
    detail: Annotated[int, msgspec.Meta(ge=1, le=2**31 - 1)]
    texture_width: Annotated[int, msgspec.Meta(ge=1, le=2**31 - 1)]
    level_floor: bool
    align_walls: bool
    match_panorama: bool = True


class GeneratePreset(_Preset, tag="generate"):
    """How panoramas are generated and edited."""

    quality: _Choice
    engine: _Choice
    size: _Choice
    count: Annotated[int, msgspec.Meta(ge=1, le=MAX_SEEDS)]
    method: _Choice
    #: A Hugging Face id. None where it was a file of a computer, and so is its trigger: loading changes neither.
    lora: _Text | None
    trigger: _Text | None
    negative_prompt: _Text
    true_cfg_scale: Annotated[float, msgspec.Meta(ge=1, le=100)]
    guidance_scale: _Guidance
    shift: Annotated[float, msgspec.Meta(ge=0, le=100)]
    hdr: bool
    measure_light: bool
    sun_strength: Annotated[float, msgspec.Meta(ge=0, le=1e6)]
    sun_threshold: Annotated[float, msgspec.Meta(ge=0, le=1)]


class TexturePreset(_Preset, tag="texture"):
    """How meshes are textured."""

    quality: _Choice
    size: Annotated[int, msgspec.Meta(ge=1, le=2**16)]
    guidance_scale: _Guidance
    upscale: _Choice
    negative_prompt: _Text


Preset = PerceivePreset | GeneratePreset | TexturePreset
_CLASSES: dict[str, type[_Preset]] = {"perceive": PerceivePreset, "generate": GeneratePreset, "texture": TexturePreset}


def owner(scene: bpy.types.Scene, kind: str, name: str) -> bpy.types.PropertyGroup:
    """Return the settings with this property: those of the section, or those that all sections share."""
    section = getattr(scene.panoform, kind, None)
    return section if section is not None and name in section.bl_rna.properties else scene.panoform


def of_scene(scene: bpy.types.Scene, kind: str) -> Preset:
    """Return the scene's settings as a preset. Raise SettingError where one is out of its range."""
    values: dict[str, Any] = {}
    for name in _CLASSES[kind].__struct_fields__:
        value = getattr(owner(scene, kind, name), name)
        values[name] = sorted(value) if isinstance(value, set) else value
    if values.get("lora") and not _is_hub_id(values["lora"]):
        values |= {"lora": None, "trigger": None}
    try:
        return msgspec.convert(values | {"panoform_preset": kind}, Preset)
    except msgspec.ValidationError as error:
        raise SettingError(f"These settings can't be saved: {error}.", "Change that setting.") from error


def apply(scene: bpy.types.Scene, preset: Preset, kind: str) -> None:
    """Set the scene's settings. Raise InputError, and set none, for a preset that doesn't fit (`check`)."""
    check(scene, preset, kind)
    for name, value in msgspec.structs.asdict(preset).items():
        if value is not None:
            setattr(owner(scene, kind, name), name, set(value) if isinstance(value, list) else value)


def omitted(preset: Preset) -> str:
    """Return what of the scene's settings `of_scene` left out, "" if nothing."""
    if isinstance(preset, GeneratePreset) and preset.lora is None:
        return "The LoRA is a file of this computer: the preset leaves LoRA and Trigger as they are"
    return ""


def check(scene: bpy.types.Scene, preset: Preset, kind: str) -> None:
    """Raise InputError for a preset of another kind, or with a choice that this version does not have."""
    if type(preset) is not _CLASSES[kind]:
        raise InputError("The preset is for another section.", f"Choose one for {kind.capitalize()}.")
    for name, value in msgspec.structs.asdict(preset).items():
        items = getattr(owner(scene, kind, name).bl_rna.properties[name], "enum_items", None)
        if items is None:
            continue
        for choice in value if isinstance(value, list) else [value]:
            if choice not in items:
                raise InputError(
                    f"The preset has {name} {choice!r}, which is unknown here.", "Update Panoform, or save it again."
                )


def encode(preset: Preset) -> bytes:
    """Return the content of the preset's file."""
    return msgspec.json.format(msgspec.json.encode(preset), indent=2) + b"\n"


def read(path: Path) -> Preset:
    """Read a file. Raise InputError for what is not a preset."""
    try:
        if path.stat().st_size > _MAX_BYTES:
            raise ValueError("it is too large")
        return json_file.read(path, Preset)  # pyright: ignore[reportArgumentType]
    except OSError as error:
        raise InputError(f"{path} can't be read: {error.strerror}.", "Check the path.") from error
    except ValueError as error:
        raise InputError(
            f"{path.name} is not a preset of Panoform: {error}.", "Choose one that Panoform saved."
        ) from error


def _is_hub_id(text: str) -> bool:
    """Return whether it names a model on the hub, not a file or folder of this computer."""
    return bool(_HUB_ID.fullmatch(text)) and not text.endswith(".safetensors") and not Path(text).exists()
