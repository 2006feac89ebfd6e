"""`panoform texture` and `panoform multiview` on files."""

import json
import os
import sys

import numpy as np
import pytest
import trimesh
from PIL import Image
from texturing_shapes import unwrapped

from panoform.backend.cli.main import main
from panoform.backend.io import mesh_files
from panoform.backend.io.encoding import encode_image
from panoform.backend.texturing import cameras
from panoform.shared import overwriting
from panoform.shared.jobs.texture import MAX_TRIANGLES, VIEWS, check_overlap
from panoform.shared.protocol.errors import InputError

MESH = unwrapped(trimesh.creation.icosphere(1))


@pytest.fixture
def ball(tmp_path):
    """A sphere as a .glb, whose Y axis points up, beside the front's colours."""
    mesh = mesh_files.MeshFile(*(getattr(MESH, name).astype(np.float32) for name in ("corners", "normals", "uv")))
    white = encode_image("texture.png", np.ones((4, 4, 3), np.float32), "sRGB", bits=8)
    file = tmp_path / "bäll.glb"
    file.write_bytes(mesh_files.encode_glb(mesh, white, "ball"))
    return file


@pytest.fixture
def reference(tmp_path):
    pixels = np.zeros((32, 32, 4), np.uint8)
    pixels[8:24, 8:24] = (200, 40, 30, 255)
    Image.fromarray(pixels).save(tmp_path / "reference.png")
    return tmp_path / "reference.png"


@pytest.fixture
def engine(tiny_sd21, multiview_adapters):
    return ["--model", str(tiny_sd21), "--adapters", str(multiview_adapters), "--steps", "1"]


def test_mesh_file_keeps_corners_normals_and_uv(ball):
    read = mesh_files.read(ball)
    for name in ("corners", "normals", "uv"):
        np.testing.assert_allclose(getattr(read, name), getattr(MESH, name), atol=1e-6)


@pytest.mark.skipif(sys.platform != "linux", reason="other systems have no such names")
def test_name_that_is_not_utf8_is_told(tmp_path):
    path = tmp_path / os.fsdecode(b"caf\xe9.obj")
    path.write_text("v 0 0 0\nv 1 0 0\nv 0 1 0\nf 1 2 3\n")
    with pytest.raises(InputError, match="is not UTF-8") as caught:
        mesh_files.read(path)
    str(caught.value).encode()


def test_mesh_without_material_keeps_its_uv(tmp_path):
    """As Blender exports an object without material, in both forms of glTF."""
    shape = trimesh.creation.icosphere(1)
    uv = shape.vertices[:, :2] / 2 + 0.5
    shape.visual = trimesh.visual.TextureVisuals(uv=uv, material=trimesh.visual.material.PBRMaterial())

    def bare(tree):
        tree.pop("materials")
        for mesh in tree["meshes"]:
            mesh["primitives"][0].pop("material")

    scene = trimesh.Scene(shape)
    files = {"ball.glb": scene.export(file_type="glb", tree_postprocessor=bare)}
    files |= scene.export(file_type="gltf", tree_postprocessor=bare)
    for name, data in files.items():
        (tmp_path / name).write_bytes(data)
    for name in ("ball.glb", "model.gltf"):
        read = mesh_files.read(tmp_path / name)
        np.testing.assert_allclose(read.uv, uv[shape.faces], atol=1e-6)


def test_nodes_are_read_where_they_stand(ball, tmp_path):
    """The ball by trimesh, once more as a mirrored copy, 3 above."""
    scene = trimesh.load_scene(ball)
    mirror = np.diag([-1.0, 1, 1, 1])
    mirror[1, 3] = 3
    (name,) = scene.geometry
    scene.graph.update("copy", scene.graph.base_frame, matrix=mirror, geometry=name)
    (tmp_path / "two.glb").write_bytes(scene.export(file_type="glb"))
    read = mesh_files.read(tmp_path / "two.glb")
    assert len(read.corners) == 2 * len(MESH.corners)
    assert read.corners[..., 2].max() == pytest.approx(3.5, abs=0.01)
    sides = read.corners[:, 1:] - read.corners[:, :1]
    outside = (np.cross(sides[:, 0], sides[:, 1]) * read.normals.mean(axis=1)).sum(axis=-1)
    assert (outside > 0).all()


def test_meshes_at_too_many_places_are_refused(tmp_path):
    """A ball at 50 places: the file is small, what it stands for isn't."""
    shape = trimesh.creation.icosphere(5)
    scene = trimesh.Scene(shape)
    (name,) = scene.geometry
    for number in range(MAX_TRIANGLES // len(shape.faces)):
        scene.graph.update(f"copy {number}", scene.graph.base_frame, matrix=np.eye(4), geometry=name)
    (tmp_path / "many.glb").write_bytes(scene.export(file_type="glb"))
    with pytest.raises(InputError, match="triangles; at most 1,000,000 can be textured"):
        mesh_files.read(tmp_path / "many.glb")


@pytest.mark.slow
def test_mesh_is_textured_and_baked_again(ball, reference, engine, tmp_path, capsys):
    out = tmp_path / "out"
    sizes = ["--size", "128", "--view-size", "64"]
    options = ["texture", str(ball), "--out", str(out)]
    assert main([*options, *sizes, "--reference", str(reference), *engine, "--json"]) == 0
    record = json.loads(capsys.readouterr().out)
    assert (record["task"], record["source"]) == ("ig2mv", "reference.png")
    written = sorted(path.name for path in out.iterdir())
    assert written == sorted([ball.name, "texture.png", "texture.json", *(f"{view}.png" for view in VIEWS)])
    made = next(iter(trimesh.load_scene(out / ball.name).geometry.values()))
    texture = np.array(Image.open(out / "texture.png"))
    assert np.array_equal(np.array(made.visual.material.baseColorTexture.convert("RGB")), texture)
    # One view repainted: the front of the ball is blue, and nothing is drawn.
    blue = np.broadcast_to([0, 0, 1], (64, 64, 3)).astype(np.float32)
    (out / "front.png").write_bytes(encode_image("front.png", blue, "sRGB", bits=8))
    assert main([*options, "--size", "256", "--views", str(out)]) == 0
    painted = (out / "front.png").read_bytes()
    assert main([*options, *sizes, "--reference", str(reference), *engine]) == 1
    assert "not a result of Panoform: front.png" in capsys.readouterr().err
    assert (out / "front.png").read_bytes() == painted
    baked = np.array(Image.open(out / "texture.png"))
    assert baked.shape == (256, 256, 3)
    centre = MESH.corners.mean(axis=1)[:, 1].argmin()  # the triangle nearest to the front
    u, v = MESH.uv[centre].mean(axis=0)
    assert (np.abs(baked[int((1 - v) * 256), int(u * 256)].astype(int) - [0, 0, 255]) < 40).all()


@pytest.mark.slow
def test_views_are_drawn_from_control_images(reference, engine, tmp_path):
    control = tmp_path / "control"
    control.mkdir()
    for number, name in enumerate(VIEWS):
        image = cameras.control_image(cameras.render(MESH, number, 64)).astype(np.float32)
        for kind, pixels in (("position", image[..., :3]), ("normal", image[..., 3:])):
            (control / f"{kind}_{name}.png").write_bytes(encode_image("x.png", pixels, "Non-Color"))
    options = ["multiview", "--control", str(control), "--reference", str(reference), "--out", str(tmp_path / "views")]
    assert main([*options, *engine]) == 0
    assert np.array(Image.open(tmp_path / "views" / "bottom.png")).shape == (64, 64, 3)
    (control / "normal_left.png").unlink()
    assert main([*options, *engine]) == 1


@pytest.mark.slow
@pytest.mark.parametrize("uv", ["missing", "overlapping"])
def test_mesh_without_a_usable_uv_map_gets_one(uv, reference, tmp_path, capsys):
    """A box: what is new covers it once, and the front (glTF's +Z) has the picture's red."""
    box, out = trimesh.creation.box(), tmp_path / "out"
    if uv == "overlapping":
        box.visual = trimesh.visual.TextureVisuals(uv=box.vertices[:, :2] + 0.5)
    box.export(tmp_path / "box.obj", include_texture=uv == "overlapping")
    assert main(["texture", str(tmp_path / "box.obj"), "--reference", str(reference), "--out", str(out),
                 "--size", "128", "--view-size", "64"]) == 0  # fmt: skip
    assert "The result has a new UV map." in capsys.readouterr().err
    made = mesh_files.read(out / "box.glb")
    assert len(made.corners) == 12
    check_overlap(made.uv)
    front = made.uv[(made.corners[..., 1] < -0.49).all(axis=1)].mean(axis=1)
    pixels = np.array(Image.open(out / "texture.png"))[
        ((1 - front[:, 1]) * 128).astype(int), (front[:, 0] * 128).astype(int)
    ]
    np.testing.assert_allclose(pixels, [[200, 40, 30]] * 2, atol=8)


def test_bad_files_are_refused(ball, reference, engine, tmp_path, capsys):
    broken = tmp_path / "broken.glb"
    broken.write_bytes(b"glTF nothing")
    common = ["--reference", str(reference), "--out", str(tmp_path / "out"), *engine]
    for file, message in (
        (broken, "can't be read"), (tmp_path / "no.ply", "no file"),
        (reference, "not a mesh"),
    ):  # fmt: skip
        assert main(["texture", str(file), *common]) == 1
        assert message in capsys.readouterr().err
    assert main(["texture", str(ball), "--out", str(tmp_path / "out")]) == 1
    assert "neither a reference picture nor a prompt" in capsys.readouterr().err
    assert main(["texture", str(ball), *common[:2], "--out", str(tmp_path)]) == 1
    assert "is a source" in capsys.readouterr().err
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "texture.png").write_bytes(b"mine")
    assert main(["texture", str(ball), *common[:2], "--out", str(tmp_path / "mine")]) == 1
    assert "not a result of Panoform: texture.png" in capsys.readouterr().err


@pytest.mark.parametrize(("ends", "message"), [((1, 2), "has no area"), ((0, 0), "has no size")])
def test_meshes_without_area_get_no_new_uv_map(ends, message, reference, tmp_path, capsys):
    points = np.outer([0, *ends], [1, 0, 0])
    trimesh.Trimesh(points, [[0, 1, 2]], process=False).export(tmp_path / "line.ply")
    out = ["--out", str(tmp_path / "out"), "--reference", str(reference)]
    assert main(["texture", str(tmp_path / "line.ply"), *out]) == 1
    told = capsys.readouterr().err
    assert message in told
    assert "UV map" not in told


def test_names_that_no_file_can_have_are_listed(tmp_path):
    """In meshes from elsewhere; the check of what is overwritten passes them."""
    (tmp_path / "out.glb").touch()
    (tmp_path / "a.obj").write_text(f"mtllib {'n' * 300}\n")
    (tmp_path / "a.gltf").write_text('{"buffers": [{"uri": "a%00b"}]}')
    for name in ("a.obj", "a.gltf"):
        files = mesh_files.files(tmp_path / name)
        assert len(files) > 1
        overwriting.check([tmp_path / "out.glb"], lambda _: True, files)
