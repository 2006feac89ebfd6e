import os
import shutil
import subprocess
import sys
from pathlib import Path

import msgspec
import numpy as np
import OpenImageIO as oiio
import pytest

from panoform.backend.io import results
from panoform.backend.io.results import Perceived
from panoform.shared.jobs.perceive import Info
from panoform.shared.maps import MAPS
from panoform.shared.protocol.errors import OutputError


def perceived(names=tuple(MAPS), height=16, seed=0):
    rng = np.random.default_rng(seed)
    maps = {name: rng.random((height, 2 * height, MAPS[name].channels)).astype(np.float32) for name in names}
    info = Info(
        panoform="0.1.0",
        engine="starter",
        model="built in",
        adapters="built in",
        notice="",
        maps={name: MAPS[name].meaning for name in names},
        frame="x front",
        source="森.exr",
        source_size=(64, 128),
        size=(height, 2 * height),
        exposure={"rule": "r", "exposure": 2.5, "knee": 0.8},
        seed=seed,
        num_inference_steps=1,
        guidance_scale=3.5,
        device="CPU",
        dtype="fp32",
        seconds={"all": 1.5},
        versions={"python": "3.11"},
    )
    return Perceived(maps, rng.random((height, 2 * height, 3)).astype(np.float32), info)


def contents(directory):
    return {file.name: file.read_bytes() for file in directory.iterdir()}


def test_written_files_equal_the_maps(tmp_path):
    result = perceived()
    results.write(tmp_path / "öut put", result)
    names = {kind.filename for kind in MAPS.values()} | {"panorama.png", "maps.json"}
    assert {file.name for file in (tmp_path / "öut put").iterdir()} == names
    for name, pixels in result.maps.items():
        image = oiio.ImageBuf(str(tmp_path / "öut put" / MAPS[name].filename))
        assert image.nchannels == MAPS[name].channels
        assert str(image.file_format_name) == ("openexr" if name in ("distance", "normal") else "png")
        depth = {"distance": "float", "normal": "float", "semantic": "uint8"}.get(name, "uint16")
        assert str(oiio.ImageInput.open(image.name).spec().format) == depth
        tolerance = {"float": 0, "uint8": 0.5 / 255, "uint16": 0.5 / 65535}[depth]
        np.testing.assert_allclose(image.get_pixels("float"), pixels, atol=tolerance + 1e-7 * (tolerance > 0))
    info = msgspec.json.decode((tmp_path / "öut put" / "maps.json").read_bytes(), type=Info)
    assert info == result.info


def test_pillow_reads_16_bit_grey_maps(tmp_path):
    from PIL import Image

    result = perceived(["roughness"])
    results.write(tmp_path / "out", result)
    pixels = np.asarray(Image.open(tmp_path / "out" / "roughness.png"))
    np.testing.assert_allclose(pixels / 65535, result.maps["roughness"][..., 0], atol=1e-5)


def test_only_the_perceived_maps_are_written(tmp_path):
    results.write(tmp_path, perceived(["albedo"]))
    assert {file.name for file in tmp_path.iterdir()} == {"albedo.png", "panorama.png", "maps.json"}


def test_earlier_result_is_replaced_completely_and_other_files_are_kept(tmp_path):
    results.write(tmp_path, perceived())
    (tmp_path / "notes.txt").write_text("mine")
    results.write(tmp_path, perceived(["normal"], seed=1))
    assert {file.name for file in tmp_path.iterdir()} == {"normal.exr", "panorama.png", "maps.json", "notes.txt"}


# User files are kept


@pytest.mark.parametrize("content", [b"\xff\xfe", b'{"panoform": "\xff"}', b"[]", b'{"maps": {"normal": ""}}'])
def test_maps_json_of_another_program_is_not_replaced(tmp_path, content):
    (tmp_path / "maps.json").write_bytes(content)
    (tmp_path / "normal.exr").write_bytes(b"mine")
    before = contents(tmp_path)
    with pytest.raises(OutputError, match=r"not a result of Panoform: maps.json, normal.exr") as caught:
        results.write(tmp_path, perceived(["normal"]))
    assert "--overwrite" in caught.value.hint
    assert contents(tmp_path) == before
    results.write(tmp_path, perceived(["normal"]), overwrite=True)
    assert b"normal" in (tmp_path / "maps.json").read_bytes()


def test_user_files_are_not_replaced_without_overwrite(tmp_path):
    results.write(tmp_path, perceived(["albedo"]))
    (tmp_path / "distance.exr").write_bytes(b"mine")
    before = contents(tmp_path)
    for call in (
        lambda: results.check_folder(tmp_path, ["albedo", "distance"]),
        lambda: results.write(tmp_path, perceived(["albedo", "distance"])),
    ):
        with pytest.raises(OutputError, match=r"not a result of Panoform: distance.exr\."):
            call()
    assert contents(tmp_path) == before
    results.check_folder(tmp_path, ["albedo"])  # of an earlier result
    results.check_folder(tmp_path, ["albedo", "distance"], overwrite=True)
    assert contents(tmp_path) == before
    results.write(tmp_path, perceived(["distance"]), overwrite=True)
    assert {file.name for file in tmp_path.iterdir()} == {"distance.exr", "panorama.png", "maps.json"}


@pytest.mark.parametrize("overwrite", [False, True])
@pytest.mark.parametrize("name", ["panorama.png", "distance.exr", "albedo.png", "maps.json"])
def test_source_is_neither_replaced_nor_removed(tmp_path, name, overwrite):
    """Even if it belongs to an earlier result, is given by another path, or is a map that the new result lacks."""
    results.write(tmp_path, perceived(["distance", "albedo"]))
    before = contents(tmp_path)
    for source in (tmp_path / name, tmp_path / ".." / tmp_path.name / name):
        for call in (
            lambda source: results.check_folder(tmp_path, ["distance"], [None, source], overwrite),
            lambda source: results.write(tmp_path, perceived(["distance"]), sources=[source], overwrite=overwrite),
        ):
            with pytest.raises(OutputError, match=f"{name} is a source") as caught:
                call(source)
            assert caught.value.hint
    assert contents(tmp_path) == before
    results.check_folder(tmp_path, ["distance"], [tmp_path / "elsewhere.exr"], overwrite)


@pytest.mark.skipif(sys.platform == "win32", reason="creating links needs a privilege")
def test_link_to_the_source_is_not_replaced(tmp_path):
    (tmp_path / "room.exr").write_bytes(b"mine")
    (tmp_path / "maps").mkdir()
    (tmp_path / "maps" / "distance.exr").symlink_to(tmp_path / "room.exr")
    with pytest.raises(OutputError, match="is a source"):
        results.check_folder(tmp_path / "maps", ["distance"], [tmp_path / "room.exr"], overwrite=True)


def test_folder_with_the_name_of_a_map_is_kept(tmp_path):
    (tmp_path / "normal.exr").mkdir()
    (tmp_path / "normal.exr" / "mine").write_bytes(b"mine")
    with pytest.raises(OutputError, match="is a folder"):
        results.write(tmp_path, perceived(["normal"]), overwrite=True)
    assert (tmp_path / "normal.exr" / "mine").read_bytes() == b"mine"
    assert len(list(tmp_path.iterdir())) == 1


def test_user_map_that_is_not_in_the_result_is_kept(tmp_path):
    (tmp_path / "albedo.png").write_bytes(b"painted by hand")
    results.write(tmp_path, perceived(["normal"]))
    assert (tmp_path / "albedo.png").read_bytes() == b"painted by hand"


# Invalid folders


def test_file_with_the_name_of_the_folder_is_rejected(tmp_path):
    (tmp_path / "out").write_text("a file")
    with pytest.raises(OutputError, match="can't be written"):
        results.write(tmp_path / "out", perceived())
    assert (tmp_path / "out").read_text() == "a file"


@pytest.mark.skipif(sys.platform == "win32" or os.geteuid() == 0, reason="root writes anywhere")
def test_read_only_folder_is_rejected(tmp_path):
    tmp_path.chmod(0o500)
    with pytest.raises(OutputError, match="can't be written"):
        results.check_writable(tmp_path / "out")


@pytest.mark.skipif(sys.platform != "linux", reason="/proc")
def test_folder_that_cannot_be_created_is_rejected():
    with pytest.raises(OutputError, match="can't be written") as caught:
        results.check_writable(Path("/proc/panoform/out"))
    assert caught.value.hint


def test_check_writable_leaves_no_files(tmp_path):
    results.check_writable(tmp_path / "a" / "b")
    assert not list(tmp_path.iterdir())


_FULL_DISK = """
import resource, signal, sys
from pathlib import Path
sys.path.insert(0, sys.argv[3])
from test_results import perceived
from panoform.backend.io import results
from panoform.shared.protocol.errors import OutputError
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[1]),) * 2)
for directory in sys.argv[4:]:
    try:
        results.write(Path(directory), perceived(sys.argv[2].split(","), height=64, seed=1))
    except OutputError as error:
        print(error)
    else:
        print("written")
"""


def write_with_limit(limit, names, *directories):
    """Write a result into each directory where files have at most `limit` bytes; return what was said of each."""
    done = subprocess.run(
        [sys.executable, "-c", _FULL_DISK, str(limit), names, str(Path(__file__).parent), *map(str, directories)],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    return done.stdout.splitlines()


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="RLIMIT_FSIZE")
@pytest.mark.parametrize("names", ["distance", "albedo", "semantic"])
def test_file_size_limit_leaves_the_folder_unchanged(tmp_path, names):
    results.write(tmp_path / "out", perceived())
    before = contents(tmp_path / "out")
    said = write_with_limit(10_000, names, tmp_path / "out", tmp_path / "new" / "folder")
    assert ["could not be written" in line for line in said] == [True, True]
    assert contents(tmp_path / "out") == before
    assert not (tmp_path / "new").exists()


def _mount(folder, size):
    return not subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)], capture_output=True, check=False
    ).returncode


@pytest.mark.skipif(sys.platform != "linux" or shutil.which("mount") is None, reason="needs a small tmpfs")
@pytest.mark.parametrize("size", ["40k", "100k", "200k"])
def test_full_disk_leaves_no_files(tmp_path, size):
    disk = tmp_path / "disk"
    disk.mkdir()
    if not _mount(disk, size):
        pytest.skip("mounting is not permitted")
    try:
        with pytest.raises(OutputError, match=r"full|could not be written") as caught:
            results.write(disk, perceived(height=64))
        assert caught.value.hint
        assert not list(disk.iterdir())
    finally:
        subprocess.run(["umount", str(disk)], check=True)
