"""Encoding of messages: bit-exact, without copying, and invalid messages are rejected."""

import random

import msgspec
import numpy as np
import pytest
import zmq

from panoform.shared import engines
from panoform.shared.jobs.generate import GenerateReply, GenerateSettings, PanoramaFile, Recipe
from panoform.shared.jobs.perceive import Info, PerceiveReply, PerceiveRequest, PerceiveSettings
from panoform.shared.protocol import messages, wire
from panoform.shared.protocol.errors import BackendVersionError, ProtocolError

OLDER, NEWER = messages.PROTOCOL_VERSION - 1, messages.PROTOCOL_VERSION + 1

INFO = Info(
    panoform="0.1.0",
    engine="starter",
    model="",
    adapters="",
    notice="",
    maps={"normal": "unit vectors"},
    frame="+X front",
    source="räum.exr",
    source_size=(8, 16),
    size=(4, 8),
    exposure={"ev": -1.5, "rule": "percentile"},
    seed=2**32 - 1,
    num_inference_steps=1,
    guidance_scale=3.5,
    device="cpu",
    dtype="fp32",
    seconds={"normal": 0.25},
    versions={"python": "3.11"},
)


def request(panorama: np.ndarray) -> PerceiveRequest:
    return PerceiveRequest(
        id="job",
        panorama=panorama,
        encoding="linear",
        source="C:\\Panoramen\\Höhle.exr",
        engine=engines.EngineSettings(engine="flux", device="cuda:1"),
        settings=PerceiveSettings(maps=("distance", "normal"), seed=7),
    )


def noise(*shape: int, dtype: str = "float32") -> np.ndarray:
    bits = np.random.default_rng(0).integers(0, 256, (*shape, np.dtype(dtype).itemsize), np.uint8)
    return bits.view(dtype)[..., 0]


def header(**changes: object) -> bytes:
    """Return a StatusRequest's header, encoded independently of wire.py."""
    return msgspec.msgpack.encode(
        {"version": messages.PROTOCOL_VERSION, "message": {"type": "StatusRequest", "id": "a"}} | changes
    )


def perceive_header(panorama: object) -> bytes:
    fields = msgspec.to_builtins(request(noise(2, 4, 3)), enc_hook=lambda _: panorama)
    return header(message=fields)


def ref(frame: object = 1, dtype: object = "float32", shape: object = (2, 4, 3)) -> dict[str, object]:
    return {"frame": frame, "dtype": dtype, "shape": shape}


def test_request_is_transferred_bit_for_bit_without_copying():
    panorama = noise(16, 32, 3)  # any bits: NaN payloads and denormals too
    frames = wire.encode(request(panorama))
    assert np.shares_memory(np.frombuffer(frames[1], np.uint8), panorama)
    received = [zmq.Frame(bytes(frame)) for frame in frames]
    message = wire.decode_request(received)
    assert isinstance(message, PerceiveRequest)
    assert message.panorama.tobytes() == panorama.tobytes()
    assert np.shares_memory(message.panorama, np.frombuffer(received[1].buffer, np.uint8))
    message.panorama = panorama
    assert message == request(panorama)


@pytest.mark.parametrize("dtype", ["float32", "uint8", "uint16"])
@pytest.mark.parametrize("shape", [(5,), (3, 4), (3, 4, 1)])
def test_every_dtype_and_shape_is_transferred(dtype: str, shape: tuple[int, ...]):
    picture = noise(*shape, dtype=dtype)
    sent = messages.PreviewEvent(id="job", map="normal", picture=picture)
    message = wire.decode_answer(wire.encode(sent))
    assert isinstance(message, messages.PreviewEvent)
    assert message.picture.dtype == picture.dtype
    assert message.picture.shape == picture.shape
    assert message.picture.tobytes() == picture.tobytes()


def test_reply_with_several_arrays_is_transferred():
    maps = {"distance": noise(50, dtype="uint8"), "normal": noise(70, dtype="uint8")}
    sent = PerceiveReply(id="job", maps=maps, info=INFO)
    message = wire.decode_answer(wire.encode(sent))
    assert isinstance(message, PerceiveReply)
    assert message.info == INFO
    assert {name: data.tobytes() for name, data in message.maps.items()} == {
        name: data.tobytes() for name, data in maps.items()
    }


def test_reply_with_a_file_and_recipe_for_each_panorama_is_transferred():
    recipe = Recipe(
        panoform="0.1.0", kind="words", engine=engines.EngineSettings(), model="m", adapters="",
        settings=GenerateSettings(), turn=(1, -2, 0.5), source="", size=(256, 512), notices=(), device="cpu",
        dtype="fp32", seconds=1.5, versions={},
    )  # fmt: skip
    files = [noise(size, dtype="uint8") for size in (5, 70)]
    sent = GenerateReply(id="job", panoramas=tuple(PanoramaFile(data=data, recipe=recipe) for data in files))
    message = wire.decode_answer(wire.encode(sent))
    assert isinstance(message, GenerateReply)
    assert [one.data.tobytes() for one in message.panoramas] == [data.tobytes() for data in files]
    assert [one.recipe for one in message.panoramas] == [recipe, recipe]
    assert message.compute_seconds == 3


def test_non_contiguous_array_is_transferred():
    flipped = noise(4, 8, 3)[::-1, ::2]
    message = wire.decode_request(wire.encode(request(flipped)))
    assert isinstance(message, PerceiveRequest)
    assert message.panorama.tobytes() == flipped.tobytes()


def test_unaligned_array_is_aligned():
    panorama = noise(2, 4, 3)
    frames = wire.encode(request(panorama))
    shifted = memoryview(b"." + bytes(frames[1]))[1:]
    message = wire.decode_request([frames[0], shifted])
    assert isinstance(message, PerceiveRequest)
    assert message.panorama.flags.aligned
    assert message.panorama.tobytes() == panorama.tobytes()


def test_largest_panorama_is_accepted_and_a_larger_one_rejected():
    # Pages that are never accessed take no memory.
    largest = np.empty((8192, 16384, 3), np.float32)
    frames = wire.encode(request(largest))
    message = wire.decode_request(frames)
    assert isinstance(message, PerceiveRequest)
    assert np.shares_memory(message.panorama, largest)
    with pytest.raises(ProtocolError, match="bytes of arrays"):
        wire.encode(request(np.empty((8400, 16384, 3), np.float32)))
    with pytest.raises(ProtocolError, match="bytes of arrays"):
        wire.decode_request([frames[0], frames[1], frames[1]])


@pytest.mark.parametrize(
    "array",
    [
        np.zeros((2, 4, 3)),
        np.zeros((2, 4, 3), np.int32),
        np.zeros((2, 4, 3), ">f4"),
        np.zeros((2, 4, 3), object),
        np.zeros((1, 2, 4, 3), np.float32),
        np.zeros((0, 4, 3), np.float32),
        np.zeros((), np.float32),
    ],
    ids=["float64", "int32", "big-endian", "object", "4d", "empty", "0d"],
)
def test_unsupported_arrays_are_rejected(array: np.ndarray):
    with pytest.raises(ProtocolError, match="can't be sent"):
        wire.encode(request(array))


@pytest.mark.parametrize(("version", "update"), [(OLDER, "Blender's preferences"), (NEWER, "Update the backend")])
def test_other_version_of_the_addon_is_rejected(version: int, update: str):
    with pytest.raises(BackendVersionError, match=f"version {messages.PROTOCOL_VERSION}, the add-on version {version}"):
        wire.decode_request([header(version=version)])
    with pytest.raises(BackendVersionError, match=update):
        wire.decode_request([header(version=version)])


@pytest.mark.parametrize(("version", "update"), [(NEWER, "Blender's preferences"), (OLDER, "Update the backend")])
def test_other_version_of_the_backend_is_rejected(version: int, update: str):
    # Messages of other versions may have any structure.
    strange = header(version=version, message=["anything"], more=1)
    with pytest.raises(BackendVersionError, match=f"version {version}, the add-on version {messages.PROTOCOL_VERSION}"):
        wire.decode_answer([strange, b"frame"])
    with pytest.raises(BackendVersionError, match=update):
        wire.decode_answer([strange])


PIXELS = bytes(2 * 4 * 3 * 4)

MALFORMED = {
    "nothing": [],
    "empty header": [b""],
    "no msgpack": [b"\xc1" * 20],
    "text": [b"GET / HTTP/1.1\r\n"],
    "header of 1 MiB": [header(message={"type": "StatusRequest", "id": "a" * 2**20})],
    "no version": [msgspec.msgpack.encode({"message": {"type": "StatusRequest", "id": "a"}})],
    "version of another type": [header(version="1")],
    "no message": [msgspec.msgpack.encode({"version": messages.PROTOCOL_VERSION})],
    "message of another type": [header(message=3)],
    "deeply nested": [header(message=msgspec.Raw(b"\x91" * 100_000))],
    "deeply nested field": [header(message=msgspec.Raw(b"\x83\xa4type\xa1x\xa2id\xa1a\xa1x" + b"\x91" * 100_000))],
    "bad utf-8": [header(message=msgspec.Raw(b"\x82\xa4type\xadStatusRequest\xa2id\xa2\xff\xfe"))],
    "unknown type": [header(message={"type": "os.system", "id": "a"})],
    "an answer, not a request": [header(message={"type": "ShutdownReply", "id": "a"})],
    "unknown field": [header(message={"type": "StatusRequest", "id": "a", "extra": 1})],
    "no id": [header(message={"type": "StatusRequest"})],
    "empty id": [header(message={"type": "StatusRequest", "id": ""})],
    "long id": [header(message={"type": "StatusRequest", "id": "a" * 65})],
    "leftover frame": [header(), b"left over"],
    "truncated header": [header()[:-3]],
    "truncated array": [perceive_header(ref()), PIXELS[:-1]],
    "array too long": [perceive_header(ref()), PIXELS + b"\0"],
    "array missing": [perceive_header(ref())],
    "array left over": [perceive_header(ref()), PIXELS, PIXELS],
    "frame of the header": [perceive_header(ref(frame=0)), PIXELS],
    "frame out of range": [perceive_header(ref(frame=2)), PIXELS],
    "negative frame": [perceive_header(ref(frame=-1)), PIXELS],
    "unknown dtype": [perceive_header(ref(dtype="float64")), PIXELS * 2],
    "object dtype": [perceive_header(ref(dtype="O")), PIXELS],
    "four dimensions": [perceive_header(ref(shape=(1, 2, 4, 3))), PIXELS],
    "no dimensions": [perceive_header(ref(shape=())), PIXELS],
    "zero dimension": [perceive_header(ref(shape=(0, 4, 3))), b""],
    "negative dimensions": [perceive_header(ref(shape=(-2, -4, 3))), PIXELS],
    "overflowing shape": [perceive_header(ref(shape=(2**62, 4, 3))), PIXELS],
    "array as a list": [perceive_header([0.0] * 24)],
    "unknown field in an array": [perceive_header(ref() | {"strides": 4}), PIXELS],
}


@pytest.mark.parametrize("frames", MALFORMED.values(), ids=MALFORMED)
def test_malformed_frames_are_rejected(frames: list[bytes]):
    with pytest.raises(ProtocolError):
        wire.decode_request(frames)


def test_unknown_field_in_settings_is_rejected():
    fields = msgspec.to_builtins(request(noise(2, 4, 3)), enc_hook=lambda _: ref())
    fields["settings"]["unknown_setting"] = 1
    with pytest.raises(ProtocolError, match="unknown_setting"):
        wire.decode_request([header(message=fields), PIXELS])


def test_one_frame_for_two_arrays_is_rejected():
    fields = {"type": "PerceiveReply", "id": "a", "maps": {"a": ref(), "b": ref()}, "panorama": ref(2), "info": {}}
    with pytest.raises(ProtocolError, match="used twice"):
        wire.decode_answer([header(message=fields), PIXELS, PIXELS])


def test_damaged_header_is_rejected_or_decoded():
    rng = random.Random(0)
    whole = [bytes(frame) for frame in wire.encode(request(noise(2, 4, 3)))]
    for _ in range(3000):
        damaged = bytearray(whole[0])
        for _ in range(rng.randint(1, 4)):
            damaged[rng.randrange(len(damaged))] = rng.randrange(256)
        frames = [bytes(damaged[: rng.choice([len(damaged), rng.randrange(len(damaged))])]), *whole[1:]]
        try:
            message = wire.decode_request(frames)
        except (ProtocolError, BackendVersionError):
            continue
        assert isinstance(message, messages.Request)


def test_id_of_an_undecodable_message_is_read():
    assert wire.read_id([header(message={"type": "Newer", "id": "abc", "more": []})]) == "abc"
    assert wire.read_id([header(version=9)]) == "a"
    for name in ("nothing", "no msgpack", "no id", "empty id", "long id", "deeply nested", "bad utf-8"):
        assert wire.read_id(MALFORMED[name]) is None
