"""Each place that calls a foreign library translates all that the library raises. (OpenImageIO: test_image_headers.py;
safetensors: test_weights.py; ZeroMQ and msgspec: test_server_connections.py.)"""

import errno
import os
import subprocess
import sys

import msgspec
import numpy as np
import pytest
from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

from panoform.backend.cli.main import main
from panoform.backend.io import encoding, generated
from panoform.backend.models import hub
from panoform.backend.server.worker import error_reply
from panoform.shared import file_errors, json_file
from panoform.shared.imaging import exif
from panoform.shared.jobs.perceive import Info
from panoform.shared.protocol import wire
from panoform.shared.protocol.errors import BackendVersionError, InputError, OutputError, ProtocolError, WeightsError
from panoform.shared.protocol.messages import ErrorReply

# JSON

CONTENTS = [
    b"", b"{", b"null", b'"text"', '{"a": 1}'.encode("utf-16"), '{"ä": 1}'.encode("latin-1"), b'{"\xff": 1}',
    b"[" * 100_000, b'{"a":' * 100_000 + b"1" + b"}" * 100_000, b'{"size": [1e999]}', b'{"a": ' + b"9" * 5000 + b"}",
    b"\x00\x00", b'{"a": "\\ud800"}',
]  # fmt: skip


@pytest.mark.parametrize("content", CONTENTS, ids=range(len(CONTENTS)))
def test_json_of_any_content_raises_value_errors_only(tmp_path, content):
    path = tmp_path / "a.json"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"\S"):
        json_file.read(path, Info)
    with pytest.raises(ValueError, match=r"\S"):
        json_file.decode(content, list[dict[str, int]])


def test_large_json_is_not_read(tmp_path):
    path = tmp_path / "a.json"
    with path.open("wb") as file:
        file.truncate(2**40)
    with pytest.raises(ValueError, match="bytes long"):
        json_file.read(path, dict)


# Names

COMMANDS = [
    ["perceive", "{}", "--out", "o"], ["perceive", "a.png", "--out", "{}"], ["mesh", "{}", "--out", "a.glb"],
    ["generate", "--image", "{}", "--fov", "60", "--out", "o.exr"], ["edit", "{}", "a door", "--out", "o.exr"],
    ["texture", "{}", "--reference", "a.png", "--out", "o"], ["batch", "{}", "--out", "o"],
    ["generate", "--recipe", "{}", "--out", "o.exr"],
]  # fmt: skip


@pytest.mark.parametrize(
    "name", ["n" * 300 + ".png", "\udcff.png", "a/" * 3000 + "a.png"], ids=["long", "bytes", "deep"]
)
@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: " ".join(command)[:20])
def test_names_are_told_in_plain_words(tmp_path, monkeypatch, capfd, name, command):
    monkeypatch.chdir(tmp_path)
    assert main([part.format(name) for part in command]) == 1
    printed = capfd.readouterr().err
    assert printed.startswith("panoform: ")
    assert "Traceback" not in printed
    assert len(printed) < 20_000


def test_a_backend_tells_names_in_plain_words():
    error = OSError(errno.ENAMETOOLONG, "File name too long", "/a/" + "n" * 300)
    reply = error_reply("1", error)
    assert (reply.code, "allow the name" in reply.message) == ("input", True)


@pytest.mark.parametrize("error", [ValueError("\udcff\x1b[2J"), WeightsError("\udcff", "\n\x1b[2J")])
def test_errors_of_a_job_can_be_sent_and_shown(error):
    """Whatever a library, or a file's name, puts into them: a reply that can't be encoded would end the worker."""
    reply = error_reply("1", error)
    assert wire.encode(reply)
    assert f"{reply.message}{reply.hint}".isprintable()


@pytest.mark.parametrize("name", ["{}.exr".format("n" * 252), "{}.exr".format("n" * 251), "a\0.exr"])
def test_names_of_results_are_told_before_time_is_spent(tmp_path, name):
    """With the second one, the panorama has a place, but not its recipe, whose name is longer."""
    with pytest.raises(OutputError, match="can't be written"):
        generated.check_path(tmp_path / name, (0,))


def test_names_can_not_control_a_terminal(tmp_path, capfd):
    path = tmp_path / "a\x1b[31m\n.png"
    if os.name == "posix":
        path.write_bytes(b"not a recipe")
    assert main(["generate", "--recipe", str(path), "--out", str(tmp_path / "o.exr")]) == 1
    assert capfd.readouterr().err.rstrip("\n").isprintable()


def test_names_become_text_that_can_be_stored():
    name = os.fsdecode(b"a\xff\n\x1b[31m.png")
    shown = file_errors.display_name(name)
    assert shown == "a���[31m.png"
    assert shown.isprintable()
    assert wire.encode(ErrorReply(id="1", code="a", message=shown))
    with pytest.raises(ProtocolError):
        wire.encode(ErrorReply(id="1", code="a", message=name))


@pytest.mark.parametrize("name", ["a\u00a0b", "a\u202fb", "石\u3000庭", "👩\u200d🚀.png", "é\u0301"])
def test_names_in_all_scripts_stay(name):
    assert file_errors.display_name(name) == name


@pytest.mark.parametrize("harmful", ["\u202e", "\u2066", "\u2028", "\u2029", "\x7f", "\x9b"])
def test_characters_that_change_the_text_around_them_are_replaced(harmful):
    assert file_errors.display_name(f"a{harmful}gnp.exe") == "a�gnp.exe"


def test_files_that_can_not_be_opened_are_told(tmp_path):
    for path in (tmp_path, tmp_path / "none", tmp_path / ("n" * 300), tmp_path / "a\0b"):
        with pytest.raises(InputError, match="no file"), file_errors.opened(path):
            pass


# EXIF


@pytest.mark.parametrize("size", [(0, 0), (0, 100), (100, 0), (4000, 3000)])
@pytest.mark.parametrize("value", [0, -1, 1e-300, 1e300, float("nan"), float("inf"), "35", (1, 2), b"x", None])
def test_exif_of_any_values_gives_an_angle_or_none(size, value):
    for names in (("film_mm",), ("focal_mm", "per_unit"), ("focal_mm", "per_unit", "sensor_width", "unit")):
        values = dict.fromkeys(("film_mm", "focal_mm", "per_unit", "unit", "sensor_width"), None)
        values |= dict.fromkeys(names, value)
        for orientation in (1, 6):
            found = exif.fov(*size, orientation, **values)
            assert found is None or 0 < found < 180


# The hub


class Response:
    def __init__(self, status):
        self.status_code, self.headers, self.request = status, {}, None


def caused(status):
    """The error that huggingface_hub raises where the hub refuses: it tells the reason in a cause only."""
    cause = HfHubHTTPError("refused", response=Response(status))
    error = LocalEntryNotFoundError("Cannot find an appropriate cached snapshot folder.")
    error.__cause__ = cause
    return error


@pytest.mark.parametrize("status", [400, 401, 403, 404, 407, 418, 429, 451, 500, 503])
@pytest.mark.parametrize("wrapped", [False, True])
def test_refusals_of_the_hub_are_told_as_such(status, wrapped):
    error = caused(status) if wrapped else caused(status).__cause__
    with pytest.raises(WeightsError) as caught, hub.translate_errors("a/b", WeightsError, "By hand.", online=True):
        raise error
    assert f"HTTP {status}" in caught.value.message
    assert "reached" not in caught.value.message
    assert caught.value.hint


def test_a_missing_connection_is_told_as_such():
    with (
        pytest.raises(WeightsError, match="can't be reached"),
        hub.translate_errors("a/b", WeightsError, "By hand.", online=True),
    ):
        raise LocalEntryNotFoundError("offline")


@pytest.mark.parametrize(
    "error", [OSError(errno.ENOSPC, "No space left"), RuntimeError("a"), MemoryError(), KeyError(1)]
)
def test_other_errors_of_its_library_are_translated(error):
    with pytest.raises(WeightsError) as caught, hub.translate_errors("a/b", WeightsError, "By hand.", online=True):
        raise error
    assert ("disk is full" in caught.value.message) == isinstance(error, OSError)


# A full disk


@pytest.mark.skipif(sys.platform != "linux", reason="limits of Linux")
@pytest.mark.parametrize("filename", ["a.png", "a.exr"])
def test_a_full_disk_is_told_as_such(filename):
    script = (
        "import resource, signal, sys; import numpy as np\n"
        "from panoform.backend.io.encoding import encode_image\n"
        "from panoform.shared.protocol.errors import OutputError\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))\n"
        "pixels = np.random.default_rng(0).random((512, 1024, 3), dtype=np.float32)\n"
        "try: encode_image(sys.argv[1], pixels, 'sRGB' if 'png' in sys.argv[1] else 'Linear')\n"
        "except OutputError as error: print(error)"
    )
    printed = subprocess.run([sys.executable, "-c", script, filename], capture_output=True, text=True, check=True)
    assert "The disk is full" in printed.stdout


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="limits of Linux")
def test_a_full_disk_does_not_stop_the_encoding_of_a_jpeg():
    """libjpeg's own writer of files ends the process."""
    script = (
        "import resource, signal; import numpy as np\n"
        "from panoform.backend.io import summary\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))\n"
        "pixels = np.random.default_rng(0).random((64, 128, 3), dtype=np.float32)\n"
        "assert 'data:image/jpeg' in summary._figure('albedo', pixels)\n"
        "import os; os.write(1, b'goes on')"
    )
    ended = subprocess.run([sys.executable, "-c", script], stdout=subprocess.PIPE, check=True)
    assert ended.stdout == b"goes on"


def test_a_writer_that_fails_for_another_reason_is_told(monkeypatch):
    monkeypatch.setattr(encoding, "_is_complete", lambda path: False)
    with pytest.raises(OutputError, match="does not read again"):
        encoding.encode_image("a.png", np.zeros((4, 8, 3), np.float32), "sRGB")


@pytest.mark.slow
def test_msgspec_raises_nothing_else_for_messages():
    rng = np.random.default_rng(0)
    for _ in range(2000):
        content = rng.integers(0, 256, rng.integers(0, 60), dtype=np.uint8).tobytes()
        for decode in (wire.decode_request, wire.decode_answer):
            with pytest.raises((ProtocolError, BackendVersionError)):
                decode([content])
    deep = msgspec.msgpack.encode(1)
    for _ in range(100_000):
        deep = b"\x91" + deep
    with pytest.raises(ProtocolError):
        wire.decode_request([deep])
