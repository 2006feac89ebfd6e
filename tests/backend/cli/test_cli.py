"""The command line in processes of its own, as few as can be: torch takes seconds to import."""

import json
import signal
import subprocess
import sys

import numpy as np
import OpenImageIO as oiio
import pytest

COMMAND = [sys.executable, "-m", "panoform.backend"]


def panoform(*arguments, **options):
    return subprocess.run(
        [*COMMAND, *map(str, arguments)], capture_output=True, text=True, encoding="utf-8", check=False, **options
    )


@pytest.fixture(scope="module")
def panorama(tmp_path_factory):
    path = tmp_path_factory.mktemp("in") / "mein Wald ö.exr"
    pixels = np.random.default_rng(0).uniform(0.1, 4, (32, 64, 3)).astype(np.float32)
    oiio.ImageBuf(pixels).write(str(path))
    return path


@pytest.fixture(scope="module")
def done(panorama, tmp_path_factory):
    out = tmp_path_factory.mktemp("out") / "maps ö"
    return out, panoform("perceive", panorama, "--out", out, "--maps", "distance,roughness", "--height", 64, "--json")


@pytest.mark.slow
def test_perceive_writes_a_result_folder(done):
    out, process = done
    assert process.returncode == 0, process.stderr
    assert {file.name for file in out.iterdir()} == {"distance.exr", "roughness.png", "panorama.png", "maps.json"}
    assert oiio.ImageBuf(str(out / "distance.exr")).get_pixels().shape == (64, 128, 1)


@pytest.mark.slow
def test_json_is_all_of_stdout(done):
    out, process = done
    assert json.loads(process.stdout) == json.loads((out / "maps.json").read_text(encoding="utf-8"))


@pytest.mark.slow
def test_progress_and_the_notice_are_plain_lines_without_a_terminal(done):
    out, process = done
    info = json.loads(process.stdout)
    lines = process.stderr.splitlines()
    assert "100 % Decoding Roughness" in lines
    assert lines[-1].startswith(f"Wrote distance, roughness to {out} in ")
    assert (info["notice"] in lines) == bool(info["notice"])
    assert "\x1b" not in process.stderr
    assert "torchvision" not in process.stderr


def test_help_and_the_server_come_without_torch():
    code = (
        "import sys\nfrom panoform.backend.cli import main as cli\n"
        "for arguments in (['--help'], ['perceive', '--help'], ['--version']):\n"
        "    try: cli.main(arguments)\n"
        "    except SystemExit: pass\n"
        "import panoform.backend.server.server\n"
        "print('heavy:', *sorted({'torch', 'diffusers', 'transformers'} & sys.modules.keys()))"
    )
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert "perceive" in told
    assert told.rstrip().endswith("heavy:")


def test_version():
    from importlib import metadata

    assert panoform("--version").stdout.strip() == f"panoform {metadata.version('panoform')}"


@pytest.mark.parametrize(
    ("options", "code", "words"),
    [
        (["--maps", "depth"], 1, "No map is called 'depth'. The maps are distance"),
        (["--engine", "sdxl"], 1, "There is no engine called 'sdxl'. Choose one of starter, flux."),
        (["--steps", "0"], 1, "The number of steps is 0."),
        (["--guidance", "31"], 1, "Guidance is 31."),
        (["--seed", "-1"], 1, "The seed is -1."),
        (["--height", "100"], 1, "not a multiple of 16. Use 96 or 112."),
        (["--dtype", "int4"], 1, "There is no dtype called 'int4'."),
        (["--offload", "disk"], 1, "There is no offload mode called 'disk'."),
        (["--steps", "many"], 2, "invalid int value"),
        (["--colour"], 2, "unrecognized arguments"),
    ],
)
def test_settings_that_are_refused(panorama, tmp_path, options, code, words):
    process = panoform("perceive", panorama, "--out", tmp_path / "out", *options)
    assert process.returncode == code
    assert words in process.stderr
    assert "Traceback" not in process.stderr
    assert code == 2 or len(process.stderr.splitlines()) == 1
    assert not (tmp_path / "out").exists()


def test_a_panorama_that_is_refused(tmp_path):
    process = panoform("perceive", tmp_path / "nowhere.exr", "--out", tmp_path / "out")
    assert (process.returncode, process.stdout) == (1, "")
    assert process.stderr.startswith("panoform: There is no file ")
    assert not (tmp_path / "out").exists()


def test_an_output_that_is_refused_before_any_work(panorama, tmp_path):
    (tmp_path / "out").write_text("a file")
    process = panoform("perceive", panorama, "--out", tmp_path / "out")
    assert process.returncode == 1
    assert "can't be written" in process.stderr
    assert "Starting" not in process.stderr


def test_no_command():
    assert panoform().returncode == 2


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="signals")
def test_ctrl_c_leaves_nothing(panorama, tmp_path):
    # A shell that runs the tests in the background has them ignore it, and all they start.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    command = [*COMMAND, "perceive", str(panorama), "--out", str(tmp_path / "out"), "--steps", "200", "--height", "64"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr
        for line in process.stderr:
            if "Distance" in line:
                break
        process.send_signal(signal.SIGINT)
        told = process.stderr.read()
    signal.signal(signal.SIGINT, before)
    assert process.returncode == 130
    assert told.splitlines()[-1] == "panoform: stopped"
    assert "Traceback" not in told
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_nothing_of_the_users_is_overwritten(tmp_path):
    """In a folder that holds the source and files of the user's under the names of a result."""
    rng = np.random.default_rng(0)
    source = tmp_path / "panorama.png"
    oiio.ImageBuf(np.ascontiguousarray(rng.random((64, 128, 3), np.float32))).write(str(source), "uint8")
    (tmp_path / "distance.exr").write_bytes(b"mine")
    before = {file.name: file.read_bytes() for file in tmp_path.iterdir()}
    command = ("perceive", str(source), "--out", str(tmp_path), "--maps", "distance", "--height", "64")
    for more in ((), ("--overwrite",)):
        done = panoform(*command, *more)
        assert done.returncode == 1
        assert "panorama.png is the source" in done.stderr
    moved = source.rename(tmp_path / "mine.png")
    done = panoform("perceive", str(moved), *command[2:])
    assert done.returncode == 1
    assert "distance.exr" in done.stderr
    after = {file.name: file.read_bytes() for file in tmp_path.iterdir()}
    assert after == {name.replace("panorama.png", "mine.png"): content for name, content in before.items()}
    done = panoform("perceive", str(moved), *command[2:], "--overwrite")
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "distance.exr").read_bytes() != b"mine"
    assert panoform("perceive", str(moved), *command[2:]).returncode == 0, "its own result may be replaced"
