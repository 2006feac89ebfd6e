"""The command line: in a separate process what depends on that, because importing torch takes seconds there."""

import errno
import json
import os
import signal
import subprocess
import sys
import types
from pathlib import Path

import numpy as np
import OpenImageIO as oiio
import pytest

from panoform.backend.cli import main as cli
from panoform.backend.cli.main import main
from panoform.backend.server.worker import error_reply

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
def perceived(panorama, tmp_path_factory):
    out = tmp_path_factory.mktemp("out") / "maps ö"
    return out, panoform("perceive", panorama, "--out", out, "--maps", "distance,roughness", "--height", 64, "--json")


@pytest.mark.slow
def test_perceive_writes_a_result_folder(perceived):
    out, process = perceived
    assert process.returncode == 0, process.stderr
    assert {file.name for file in out.iterdir()} == {"distance.exr", "roughness.png", "panorama.png", "maps.json"}
    assert oiio.ImageBuf(str(out / "distance.exr")).get_pixels().shape == (64, 128, 1)


@pytest.mark.slow
def test_stdout_is_only_json(perceived):
    out, process = perceived
    record = json.loads((out / "maps.json").read_text(encoding="utf-8"))
    assert record.pop("files").keys() == {"distance.exr", "roughness.png", "panorama.png"}
    assert json.loads(process.stdout) == record


@pytest.mark.slow
def test_progress_and_notice_are_plain_lines_outside_a_terminal(perceived):
    out, process = perceived
    info = json.loads(process.stdout)
    lines = process.stderr.splitlines()
    assert "100 % Decoding Roughness" in lines
    assert lines[-1].startswith(f"Wrote distance, roughness to {out} in ")
    assert (info["notice"] in lines) == bool(info["notice"])
    assert "\x1b" not in process.stderr
    assert "torchvision" not in process.stderr


def test_help_and_the_server_do_not_import_torch():
    code = (
        "import sys\nfrom panoform.backend.cli import main as cli\n"
        "for arguments in (['--help'], ['perceive', '--help'], ['--version']):\n"
        "    try: cli.main(arguments)\n"
        "    except SystemExit: pass\n"
        "import panoform.backend.server.server\n"
        "print('heavy:', *sorted({'torch', 'diffusers', 'transformers'} & sys.modules.keys()))"
    )
    output = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert "perceive" in output
    assert output.rstrip().endswith("heavy:")


@pytest.mark.slow
def test_version_is_printed():
    from importlib import metadata

    assert panoform("--version").stdout.strip() == f"panoform {metadata.version('panoform')}"


@pytest.mark.parametrize(
    ("options", "code", "message"),
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
def test_invalid_option_is_rejected(panorama, tmp_path, capsys, options, code, message):
    command = ["perceive", str(panorama), "--out", str(tmp_path / "out"), *options]
    if code == 2:
        with pytest.raises(SystemExit) as exited:
            main(command)
        assert exited.value.code == 2
    else:
        assert main(command) == code
    error = capsys.readouterr().err
    assert message in error
    assert code == 2 or len(error.splitlines()) == 1
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_missing_panorama_is_rejected(tmp_path):
    process = panoform("perceive", tmp_path / "nowhere.exr", "--out", tmp_path / "out")
    assert (process.returncode, process.stdout) == (1, "")
    assert process.stderr.startswith("panoform: There is no file ")
    assert not (tmp_path / "out").exists()


def test_unwritable_output_is_rejected_before_perceiving(panorama, tmp_path, capsys):
    (tmp_path / "out").write_text("a file")
    assert main(["perceive", str(panorama), "--out", str(tmp_path / "out")]) == 1
    error = capsys.readouterr().err
    assert "can't be written" in error
    assert "Starting" not in error


#: A command that prints more than a pipe holds, with the command line's own handling around it.
PRINTS = """
import sys, types
from panoform.backend.cli import main

def add(commands):
    commands.add_parser("print").set_defaults(run=lambda options: print("x" * 1_000_000) or 0)

main.COMMANDS = [types.SimpleNamespace(add=add)]
sys.exit(main.main(["print"]))
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="the shell's redirections")
@pytest.mark.parametrize(
    ("redirection", "code", "told"),
    [
        (">&-", 0, ""),
        ("<&- >&- 2>&-", 0, ""),
        ("| head -c 1 >/dev/null", 141, ""),
        pytest.param(
            ">/dev/full", 1, "panoform: The disk is full. Make room on the disk, or choose another folder.\n",
            marks=pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full"),
        ),
    ],
)  # fmt: skip
def test_output_that_is_not_taken_is_told(redirection, code, told):
    script = f'set -o pipefail; "$0" -c "$1" {redirection}'
    process = subprocess.run(
        ["bash", "-c", script, sys.executable, PRINTS], capture_output=True, text=True, check=False
    )
    assert (process.returncode, process.stderr) == (code, told)


#: A command that prints, and then fails.
FAILS = """
import sys, types
from panoform.backend.cli import main
from panoform.shared.protocol.errors import InputError

def run(options):
    print("x")
    raise InputError("It failed.", "Stop.")

main.COMMANDS = [types.SimpleNamespace(add=lambda commands: commands.add_parser("fail").set_defaults(run=run))]
sys.exit(main.main(sys.argv[1:]))
"""


@pytest.mark.slow
@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full")
@pytest.mark.parametrize(("argument", "code", "told"), [("fail", 1, "panoform: It failed. Stop.\n"), ("--help", 0, "")])
def test_output_that_is_not_taken_prints_no_traceback_at_the_end(argument, code, told):
    """Python keeps what was printed until then, unless PYTHONUNBUFFERED is set."""
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONUNBUFFERED"}
    with Path("/dev/full").open("w") as full:
        process = subprocess.run(
            [sys.executable, "-c", FAILS, argument], stdout=full, stderr=subprocess.PIPE, text=True, check=False,
            env=environment,
        )  # fmt: skip
    assert (process.returncode, process.stderr) == (code, told)


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (MemoryError(), "There is not enough main memory"),
        (OSError(errno.EMFILE, os.strerror(errno.EMFILE)), "The system refused: Too many open files"),
        (OSError(errno.EDQUOT, os.strerror(errno.EDQUOT), "x.exr"), "The disk is full: x.exr could not be written"),
        (PermissionError(errno.EACCES, os.strerror(errno.EACCES), "a.exr"), "refused a.exr: Permission denied"),
        (OSError(errno.ENAMETOOLONG, os.strerror(errno.ENAMETOOLONG), "a" * 300), "doesn't allow the name aaa"),
    ],
)
def test_what_the_system_refuses_is_told_in_a_line(monkeypatch, capsys, error, told):
    def failing(_):
        raise error

    command = types.SimpleNamespace(add=lambda commands: commands.add_parser("fail").set_defaults(run=failing))
    monkeypatch.setattr(cli, "COMMANDS", [command])
    assert main(["fail"]) == 1
    output = capsys.readouterr().err
    assert told in output
    assert output.count("\n") == 1
    assert told in error_reply("job", error).message


@pytest.mark.slow
def test_missing_command_is_rejected():
    assert panoform().returncode == 2


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="signals")
def test_ctrl_c_leaves_no_files(panorama, tmp_path):
    # A shell that runs the tests in the background makes them and their children ignore SIGINT.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    command = [*COMMAND, "perceive", str(panorama), "--out", str(tmp_path / "out"), "--steps", "200", "--height", "64"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr
        for line in process.stderr:
            if "Distance" in line:
                break
        process.send_signal(signal.SIGINT)
        output = process.stderr.read()
    signal.signal(signal.SIGINT, before)
    assert process.returncode == 130
    assert output.splitlines()[-1] == "panoform: stopped"
    assert "Traceback" not in output
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_source_and_user_files_are_not_overwritten(tmp_path, capsys):
    """The output folder holds the source and a user's file, both named like files of a result."""
    rng = np.random.default_rng(0)
    source = tmp_path / "panorama.png"
    oiio.ImageBuf(np.ascontiguousarray(rng.random((64, 128, 3), np.float32))).write(str(source), "uint8")
    (tmp_path / "distance.exr").write_bytes(b"mine")
    before = {file.name: file.read_bytes() for file in tmp_path.iterdir()}
    command = ("perceive", str(source), "--out", str(tmp_path), "--maps", "distance", "--height", "64")
    for more in ((), ("--overwrite",)):
        assert main([*command, *more]) == 1
        assert "panorama.png is a source" in capsys.readouterr().err
    moved = source.rename(tmp_path / "mine.png")
    command = ("perceive", str(moved), *command[2:])
    assert main(command) == 1
    assert "distance.exr" in capsys.readouterr().err
    after = {file.name: file.read_bytes() for file in tmp_path.iterdir()}
    assert after == {name.replace("panorama.png", "mine.png"): content for name, content in before.items()}
    assert main([*command, "--overwrite"]) == 0
    assert (tmp_path / "distance.exr").read_bytes() != b"mine"
    assert main(command) == 0, "its own result may be replaced"
