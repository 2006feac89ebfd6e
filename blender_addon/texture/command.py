"""`blender --background --command panoform texture …`."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import bpy

from ...shared.engines import QUALITIES
from ...shared.jobs.texture import DEFAULT_SIZE, FRONTS, UPSCALES
from ...shared.protocol.errors import InputError, SceneError
from ..capture import image_limits
from ..generate.command import check_seeds
from . import parts


def add(verbs: Any) -> None:
    """Add the subparser of texture."""
    verb = verbs.add_parser("texture", help="texture a mesh of a .blend from a reference picture or a prompt")
    verb.add_argument("--blend", required=True, type=Path, metavar="FILE", help="the .blend with the mesh")
    verb.add_argument(
        "--object", required=True, action="append", metavar="NAME",
        help="the mesh object, or an instance of a collection (repeatable: all get one texture)",
    )  # fmt: skip
    verb.add_argument(
        "--only-selected-faces", action="store_true", help="texture only the faces that the .blend has selected"
    )
    picture = verb.add_mutually_exclusive_group()
    picture.add_argument("--reference", type=Path, metavar="FILE", help="picture of the object, with alpha")
    picture.add_argument(
        "--use-camera", action="store_true", help="render the object from the scene's camera as the reference picture"
    )
    verb.add_argument("--prompt", default="", metavar="TEXT", help="what the object is")
    verb.add_argument("--negative", default="", metavar="TEXT", help="negative prompt (default: the model's)")
    verb.add_argument("--quality", choices=QUALITIES, default="standard")
    verb.add_argument("--steps", type=int, default=0, metavar="N", help="denoising steps (default: the quality's)")
    verb.add_argument("--guidance", type=float, default=0.0, metavar="G", help="guidance (default: the engine's)")
    verb.add_argument("--seed", type=int, default=0, metavar="N")
    verb.add_argument("--size", type=int, default=DEFAULT_SIZE, metavar="N", help="side of the texture in pixels")
    verb.add_argument(
        "--view-size", type=int, default=0, metavar="N", help="side of the views in pixels (default: 512)"
    )
    verb.add_argument("--front", choices=FRONTS, default="-Y", help="world axis that the front faces (default: -Y)")
    verb.add_argument("--upscale", choices=UPSCALES, default="off", help="enlarge the views by 2 (default: off)")
    verb.add_argument("--upscaler", default="", metavar="FILE", help="image upscaler, .safetensors, for --upscale file")
    verb.add_argument("--save", required=True, type=Path, metavar="BLEND", help="the .blend to write")


def execute(options: argparse.Namespace) -> None:
    """Open the .blend and texture the objects. Raise PanoformError, or RuntimeError from the operators."""
    check_seeds(options.seed)
    for path in (options.blend, options.reference):
        if path and not path.is_file():
            raise InputError(f"There is no file {path}.", "Check the path.")
    bpy.ops.wm.open_mainfile(filepath=str(options.blend.resolve()), load_ui=False)
    _select(options.object)
    bpy.ops.panoform.texture(
        reference=_open(options.reference) if options.reference else "",
        prompt=options.prompt, negative_prompt=options.negative, quality=options.quality,
        num_inference_steps=options.steps, guidance_scale=options.guidance, seed=options.seed, size=options.size,
        view_size=options.view_size, front=options.front, upscale=options.upscale,
        upscaler=str(Path(options.upscaler).resolve()) if options.upscaler else "",
        only_selected_faces=options.only_selected_faces, use_camera=options.use_camera,
    )  # fmt: skip


def _select(names: list[str]) -> None:
    """Select only these objects, the first one active. Raise SceneError."""
    layer = bpy.context.view_layer
    active = layer.objects.active
    if active is not None and active.mode != "OBJECT":
        bpy.ops.object.mode_set(mode="OBJECT")
    for thing in layer.objects:
        thing.select_set(False)
    for name in names:
        thing = layer.objects.get(name)
        if thing is None or not parts.has_meshes(thing):
            found = ", ".join(sorted(thing.name for thing in layer.objects if parts.has_meshes(thing))) or "none"
            raise SceneError(f"There is no mesh object {name!r} in the scene.", f"Its mesh objects: {found}.")
        thing.hide_set(False)
        thing.select_set(True)
        if not thing.select_get():
            raise SceneError(f"The object {name!r} can't be selected.", "Allow selecting it in the Outliner.")
    layer.objects.active = layer.objects[names[0]]


def _open(path: Path) -> str:
    """Load an image and return its name. Raise PanoramaError."""
    return image_limits.load(path.resolve()).name
