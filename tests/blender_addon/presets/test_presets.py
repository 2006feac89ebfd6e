"""Presets of the panel's settings: saved, loaded, shared, and refused where they are not what they should be."""

from __future__ import annotations

import json
import unicodedata
from pathlib import Path
from types import SimpleNamespace

import bpy
import msgspec
import pytest
from recorded_layout import Layout

from panoform.blender_addon import command
from panoform.blender_addon.presets import command as presets_command
from panoform.blender_addon.presets import menus, schema, store
from panoform.shared.protocol.errors import InputError, PanoformError, SettingError

OPS = bpy.ops.panoform


@pytest.fixture(autouse=True)
def presets(addon, tmp_path, monkeypatch) -> Path:
    """The folder of presets, of which only an installed extension has one."""
    folder = tmp_path / "Voreinstellungen ü"
    monkeypatch.setattr(store, "folder", lambda kind: folder / kind)
    return folder


def change(scene: bpy.types.Scene) -> None:
    settings, generate, texture = scene.panoform, scene.panoform.generate, scene.panoform.texture
    settings.maps, settings.quality, settings.engine, settings.kind = {"DISTANCE", "SEMANTIC"}, "best", "FLUX", "DOME"
    settings.detail, settings.texture_width, settings.level_floor, settings.repair = 12345, 2048, False, True
    settings.filepath, settings.seed, settings.camera_height = "/secret/room.exr", 77, 9.5
    generate.size, generate.hdr, generate.negative_prompt, generate.prompt = "2048", False, "people", "my idea"
    generate.true_cfg_scale, generate.lora, generate.trigger, generate.seed = 2.5, "owner/style", "in the style", 78
    generate.count, generate.method = 3, generate.bl_rna.properties["method"].enum_items[-1].identifier
    texture.size, texture.upscale, texture.seed, texture.prompt = 4096, "latent", 79, "mine"


def values(scene: bpy.types.Scene, kind: str) -> dict:
    names = schema._CLASSES[kind].__struct_fields__
    return {name: getattr(schema.owner(scene, kind, name), name) for name in names}


@pytest.mark.parametrize("kind", schema.KINDS)
def test_saved_settings_come_back_in_a_new_file(scene, presets, kind):
    change(scene)
    wanted = values(scene, kind)
    assert OPS.save_preset(kind=kind, name="  Großes Zimmer 2 ") == {"FINISHED"}
    assert store.names(kind) == ["Großes Zimmer 2"]
    bpy.ops.wm.read_homefile(use_empty=True, use_factory_startup=True)
    scene = bpy.context.scene
    assert values(scene, kind) != wanted
    seeds = (scene.panoform.seed, scene.panoform.generate.seed, scene.panoform.texture.seed)
    assert OPS.load_preset(kind=kind, name="Großes Zimmer 2") == {"FINISHED"}
    assert values(scene, kind) == wanted
    assert (scene.panoform.seed, scene.panoform.generate.seed, scene.panoform.texture.seed) == seeds
    assert scene.panoform.filepath == ""
    assert scene.panoform.camera_height != 9.5


def test_nothing_of_this_computer_or_of_the_picture_is_in_a_file(scene, presets, tmp_path):
    change(scene)
    for kind in schema.KINDS:
        OPS.save_preset(kind=kind, name="one")
    (tmp_path / "a").mkdir()
    for lora in (str(tmp_path / "style.safetensors"), "loras/style.safetensors", "C:\\style", "a/../../b/c"):
        scene.panoform.generate.lora = lora
        assert json.loads(schema.encode(schema.of_scene(scene, "generate")))["lora"] is None, lora
    text = "".join(path.read_text("utf-8") for path in presets.rglob("*.json"))
    for secret in ("secret", "room.exr", "77", "78", "79", "9.5", "my idea", "mine"):
        assert secret not in text
    assert "owner/style" in text


def test_lora_of_this_computer_and_its_trigger_stay_as_they_are(scene, presets, tmp_path, capfd):
    generate, file = scene.panoform.generate, str(tmp_path / "style.safetensors")
    generate.lora, generate.trigger, generate.negative_prompt = file, "in my style", "people"
    for save in (lambda: OPS.save_preset(kind="generate", name="one"),
                 lambda: OPS.export_preset(kind="generate", filepath=str(tmp_path / "two.json"))):  # fmt: skip
        assert save() == {"FINISHED"}
        assert "the preset leaves LoRA and Trigger as they are" in capfd.readouterr().out
    generate.negative_prompt = ""
    OPS.load_preset(kind="generate", name="one")
    assert (generate.lora, generate.trigger, generate.negative_prompt) == (file, "in my style", "people")
    generate.lora, generate.trigger = "", ""
    OPS.save_preset(kind="generate", name="none")
    assert "LoRA" not in capfd.readouterr().out
    generate.lora, generate.trigger = file, "in my style"
    OPS.load_preset(kind="generate", name="none")
    assert (generate.lora, generate.trigger) == ("", "")


def test_every_field_is_a_property_with_the_same_values(scene):
    """What any panel can be set to is a valid preset: its own limits lie within the schema's."""
    for kind in schema.KINDS:
        preset = schema.of_scene(scene, kind)
        assert msgspec.json.decode(schema.encode(preset), type=schema.Preset) == preset
        for name in schema._CLASSES[kind].__struct_fields__:
            assert name in schema.owner(scene, kind, name).bl_rna.properties


def test_export_and_import_share_a_preset(scene, presets, tmp_path):
    change(scene)
    wanted = values(scene, "generate")
    file = tmp_path / "Von einem Freund!.json"
    assert OPS.export_preset(kind="generate", filepath=str(file)) == {"FINISHED"}
    bpy.ops.wm.read_homefile(use_empty=True, use_factory_startup=True)
    for _ in range(2):
        assert OPS.import_preset(kind="generate", filepath=str(file)) == {"FINISHED"}
    assert values(bpy.context.scene, "generate") == wanted
    assert store.names("generate") == ["Von einem Freund", "Von einem Freund 2"]
    with pytest.raises(RuntimeError, match="for another section"):
        OPS.import_preset(kind="texture", filepath=str(file))
    assert store.names("texture") == []
    OPS.delete_preset(kind="generate", name="Von einem Freund")
    assert store.names("generate") == ["Von einem Freund 2"]
    with pytest.raises(RuntimeError, match="no preset 'Von einem Freund'"):
        OPS.delete_preset(kind="generate", name="Von einem Freund")


def test_export_keeps_files_that_are_no_presets(tmp_path):
    (tmp_path / "mine.json").write_text("{}")
    with pytest.raises(RuntimeError, match="not a result of Panoform"):
        OPS.export_preset(kind="texture", filepath=str(tmp_path / "mine.json"))
    assert (tmp_path / "mine.json").read_text() == "{}"


GOOD = {"panoform_preset": "texture", "quality": "draft", "size": 512, "guidance_scale": 3.0, "upscale": "off",
        "negative_prompt": ""}  # fmt: skip


@pytest.mark.parametrize(
    "content",
    [
        b"import os",
        b"",
        b"[" * 100_000,
        b'{"panoform_preset": "texture"}',
        json.dumps(GOOD | {"size": 10**9}).encode(),
        json.dumps(GOOD | {"guidance_scale": float("nan")}).encode(),
        json.dumps(GOOD | {"negative_prompt": "x" * 3000}).encode(),
        json.dumps(GOOD | {"upscale": "sideways"}).encode(),
        json.dumps(GOOD | {"quality": 3}).encode(),
        json.dumps(GOOD | {"script": "import os"}).encode(),
        json.dumps(GOOD | {"panoform_preset": "lighting"}).encode(),
        json.dumps(GOOD).encode() + b" " * 2**17,
    ],
)
def test_other_files_are_refused_and_change_nothing(scene, tmp_path, content):
    (tmp_path / "shared.json").write_bytes(content)
    before = values(scene, "texture")
    with pytest.raises(RuntimeError):
        OPS.import_preset(kind="texture", filepath=str(tmp_path / "shared.json"))
    assert values(scene, "texture") == before
    assert store.names("texture") == []


@pytest.mark.parametrize(
    "name",
    ["", "../x", "a/b", "a\\b", ".hidden", "con", "NUL.txt", "x" * 65, "a:b", "a\0b", "a ", "COM¹", "\u093f", "𐍈" * 64],
)
def test_names_that_no_file_should_have(name):
    with pytest.raises(SettingError, match="can't be the name"):
        store.path("texture", name)


@pytest.mark.parametrize("name", ["हिन्दी", "cafe\u0301", "ไทยที่", "می\u200cخواهم", "ế" * 64, "𐍈" * 50])
def test_names_in_all_scripts(scene, presets, name):
    composed = unicodedata.normalize("NFC", name)
    assert OPS.save_preset(kind="texture", name=name) == {"FINISHED"}
    assert store.names("texture") == [composed]
    assert OPS.save_preset(kind="texture", name=composed) == {"FINISHED"}
    assert len(list((presets / "texture").iterdir())) == 1
    assert store.free_name("generate", f"{name}!").startswith(composed[:48])
    assert store.find("texture", name) == store.find("texture", composed)


def test_file_with_a_decomposed_name_of_another_system(scene, presets):
    OPS.save_preset(kind="texture", name="one")
    file = presets / "texture" / "cafe\u0301.json"
    (presets / "texture" / "one.json").rename(file)
    assert store.names("texture") == ["caf\u00e9"]
    assert OPS.load_preset(kind="texture", name="caf\u00e9") == {"FINISHED"}
    assert OPS.save_preset(kind="texture", name="caf\u00e9") == {"FINISHED"}
    assert [path.samefile(file) for path in (presets / "texture").iterdir()] == [True]


def test_names_differ_in_more_than_case(scene, presets):
    OPS.save_preset(kind="texture", name="Night")
    with pytest.raises(RuntimeError, match="There is a preset 'Night' already"):
        OPS.save_preset(kind="texture", name="night")
    assert store.names("texture") == ["Night"]
    assert OPS.save_preset(kind="texture", name="Night") == {"FINISHED"}


@pytest.mark.parametrize("stem", ["../x", "con", "....", "x" * 300, "ü", "a__b", "𐍈" * 300, "\u0301a", "हिन्दी"])
def test_imported_files_get_a_name(stem):
    store.path("texture", store.free_name("texture", stem))


def test_menus(scene, presets):
    by_name = {menu.bl_idname: menu for menu in menus.CLASSES}
    for kind in schema.KINDS:
        texts: list[str] = []
        buttons: dict = {}
        draw = by_name[f"PANOFORM_MT_{kind}_presets"].draw
        panel = SimpleNamespace(layout=Layout(texts, buttons=buttons), kind=kind)
        panel._item = lambda *given, menu=panel, **named: menus._PresetMenu._item(menu, *given, **named)
        draw(panel, None)
        assert [label for _, label in buttons] == ["Save Preset…", "Import…", "Export…"]
        OPS.save_preset(kind=kind, name="b")
        OPS.save_preset(kind=kind, name="A")
        buttons.clear()
        draw(panel, None)
        assert [label for _, label in buttons] == ["A", "b", "Save Preset…", "Import…", "Export…"]
        assert buttons["panoform.load_preset", "A"].kind == kind


def test_options_of_the_command_line(scene, presets, tmp_path):
    change(scene)
    for kind in schema.KINDS:
        OPS.save_preset(kind=kind, name="one")
    options = command._parse(["perceive", "--panorama", "p", "--save", "s", "--preset", "one", "--quality", "draft"])
    assert (options.maps, options.quality, options.engine) == ("distance,semantic", "draft", "flux")
    assert (options.kind, options.triangles, options.level_floor, options.repair) == ("DOME", 12345, False, True)
    file = str(presets / "generate" / "one.json")
    options = command._parse(["generate", "a yard", "--out", "o", "--preset", file, "--height", "512"])
    assert (options.height, options.negative, options.true_cfg, options.ldr) == (512, "people", 2.5, True)
    assert (options.lora, options.guidance, options.prompt) == ("owner/style", None, "a yard")
    assert options.seed == (0, 1, 2), "of its number of variations"
    options = command._parse(["texture", "--blend", "b", "--object", "o", "--save", "s", "--preset", "one"])
    assert (options.size, options.upscale, options.quality) == (4096, "latent", "best")
    options = command._parse(["batch", "in", "--out", "o", "--preset", "one"])
    assert (options.maps, options.quality) == ("distance,semantic", "best")
    for verb, preset in (("texture", file), ("texture", "two"), ("perceive", str(tmp_path / "none.json"))):
        with pytest.raises(InputError):
            presets_command.defaults(verb, preset)
    with pytest.raises(PanoformError):
        presets_command.defaults("perceive", "../one")


@pytest.mark.parametrize(
    ("verb", "switches"),
    [
        ("perceive --panorama p --save s", ("repair", "level_floor", "align_walls")),
        ("batch in --out o", ("repair",)),
        ("generate p --out o", ("ldr", "measure_light")),
        ("edit p --out o", ("measure_light",)),
    ],
)
def test_given_switches_come_before_those_of_a_preset(scene, presets, verb, switches):
    kind = presets_command.KINDS[verb.split()[0]]
    for name in switches:
        for is_on in (False, True):
            stored = "hdr" if name == "ldr" else name
            setattr(schema.owner(scene, kind, stored), stored, is_on != (name == "ldr"))
            OPS.save_preset(kind=kind, name="one")
            assert getattr(command._parse([*verb.split(), "--preset", "one"]), name) == is_on
            option = f"--{'no-' * is_on}{name.replace('_', '-')}"
            assert getattr(command._parse([*verb.split(), "--preset", "one", option]), name) != is_on


def test_a_given_seed_comes_before_the_variations_of_a_preset(scene, presets):
    change(scene)
    OPS.save_preset(kind="generate", name="one")
    assert command._parse(["generate", "p", "--out", "o", "--preset", "one", "--seed", "7"]).seed == (7,)


def test_a_wrong_preset_ends_the_command(capsys, tmp_path):
    assert command.run(["batch", "in", "--out", str(tmp_path), "--preset", "none"]) == 1
    assert "There is no preset 'none' for Perceive. Saved presets: none." in capsys.readouterr().err


def test_schema_holds_no_free_values():
    """Every number and text has bounds."""
    for preset in schema._CLASSES.values():
        for field in msgspec.json.schema(preset)["$defs"][preset.__name__]["properties"].values():
            bounds = {"string": "maxLength", "integer": "maximum", "number": "maximum", "array": "maxItems"}
            for value in field.get("anyOf", [field]):
                assert value.get("type", "null") in ("boolean", "null") or bounds[value["type"]] in value
