"""Messages as ZeroMQ frames: one msgpack header, then the arrays' own bytes.

    frame 0      {"version": 1, "message": {"type": "PerceiveRequest", "id": …, "panorama": {"frame": 1, "dtype":
                 "float32", "shape": [512, 1024, 3]}, …}}
    frame 1 …    one array each, C-contiguous, little-endian, not copied on either side

Whatever comes in is checked against the message types before it is used; nothing that arrives is ever executed.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Annotated, Any, Literal, TypeAlias, Union

import msgspec
import numpy as np

from ..engines import MAX_PANORAMA_WIDTH
from .errors import BackendVersionError, ProtocolError
from .messages import PROTOCOL_VERSION, Event, Message, Reply, Request

#: Anything with the buffer protocol: bytes, a memoryview, a zmq.Frame.
Buffer: TypeAlias = Any

MAX_HEADER_BYTES = 2**20
#: All arrays of one message together: the largest panorama, float32 RGB, at most 1 % higher than half its width.
MAX_ARRAY_BYTES = MAX_PANORAMA_WIDTH**2 // 2 * 3 * 4 * 101 // 100
#: For ZMQ_MAXMSGSIZE, which counts one frame and its encryption.
MAX_FRAME_BYTES = MAX_ARRAY_BYTES + 2**10

_DTYPES = {"float32": np.dtype("<f4"), "uint8": np.dtype("u1"), "uint16": np.dtype("<u2")}


class _ArrayRef(msgspec.Struct, forbid_unknown_fields=True):
    """What stands in the header in an array's place."""

    frame: Annotated[int, msgspec.Meta(ge=1)]
    dtype: Literal["float32", "uint8", "uint16"]
    shape: Annotated[tuple[Annotated[int, msgspec.Meta(ge=1)], ...], msgspec.Meta(min_length=1, max_length=3)]


class _Header(msgspec.Struct):
    """Frame 0. `message` stays undecoded until `version` is known to be ours; other fields may come with versions."""

    version: int
    message: msgspec.Raw = msgspec.Raw()


class _OnlyId(msgspec.Struct):
    id: str


def _types(*bases: type[Message]) -> Any:
    """The union of all messages that derive from `bases`, those of every kind of job included."""
    from .. import jobs  # noqa: F401  # makes them known; they build on this package

    found, todo = [], list(bases)
    while todo:
        cls = todo.pop()
        todo += cls.__subclasses__()
        if not cls.__subclasses__():
            found.append(cls)
    return Union[tuple(found)]  # noqa: UP007


def encode(message: Message) -> list[Buffer]:
    """The frames of a message. Its arrays must not change until they are sent.

    Arrays that are not C-contiguous are copied. Raises ProtocolError for an array that may not travel (dtype, more
    than three dimensions, empty, too large).
    """
    frames: list[Buffer] = [b""]

    def lift(value: Any) -> Any:
        if not isinstance(value, np.ndarray):
            raise NotImplementedError(type(value))  # msgspec's way of asking for its own TypeError
        if value.dtype not in _DTYPES.values() or not 1 <= value.ndim <= 3 or not value.size:
            raise ProtocolError(f"A {value.dtype} array of shape {value.shape} can't be sent.")
        frames.append(np.ascontiguousarray(value).data.cast("B"))
        return _ArrayRef(len(frames) - 1, value.dtype.name, value.shape)  # pyright: ignore[reportArgumentType]

    body = msgspec.msgpack.encode(message, enc_hook=lift)
    frames[0] = msgspec.msgpack.encode(_Header(PROTOCOL_VERSION, msgspec.Raw(body)))
    _check_sizes(frames)
    return frames


def decode_request(frames: Sequence[Buffer]) -> Request:
    """Decode what the add-on asks, in the backend. See `decode_answer` for what is raised."""
    header = _read_header(frames)
    if header.version != PROTOCOL_VERSION:
        raise version_error(addon=header.version, backend=PROTOCOL_VERSION)
    if read_id(frames) is None:
        raise ProtocolError("The request has no id.")
    return _decode(header, frames, _types(Request))


def decode_answer(frames: Sequence[Buffer]) -> Event | Reply:
    """Decode what the backend sends, in the add-on.

    The arrays are views of the frames. Raises BackendVersionError for another protocol version, ProtocolError for
    anything no message type describes: unknown type, field or dtype, an array that isn't as long as its shape says,
    a frame nobody refers to, too many bytes.
    """
    header = _read_header(frames)
    if header.version != PROTOCOL_VERSION:
        raise version_error(addon=PROTOCOL_VERSION, backend=header.version)
    return _decode(header, frames, _types(Event, Reply))


def read_id(frames: Sequence[Buffer]) -> str | None:
    """The id of a message that can't be decoded, to answer it all the same; None where it has none that fits."""
    try:
        found = msgspec.msgpack.decode(_read_header(frames).message, type=_OnlyId).id
    except (ProtocolError, msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return None
    return found if 1 <= len(found) <= 64 else None


def version_error(*, addon: int, backend: int) -> BackendVersionError:
    """The two sides speak different versions: says which, and which to update."""
    return BackendVersionError(
        f"The backend speaks protocol version {backend}, the add-on version {addon}.",
        "Update the backend: set it up again in the add-on's preferences."
        if backend < addon
        else "Update the Panoform extension in Blender's preferences, then restart Blender.",
    )


def _read_header(frames: Sequence[Buffer]) -> _Header:
    if not frames or memoryview(frames[0]).nbytes > MAX_HEADER_BYTES:
        raise ProtocolError("The message has no header, or one that is too large.")
    try:
        return msgspec.msgpack.decode(frames[0], type=_Header)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise ProtocolError(f"The message's header can't be read: {error}.") from error


def _check_sizes(frames: Sequence[Buffer]) -> None:
    if memoryview(frames[0]).nbytes > MAX_HEADER_BYTES:
        raise ProtocolError(f"The message's header is larger than {MAX_HEADER_BYTES} bytes.")
    size = sum(memoryview(frame).nbytes for frame in frames[1:])
    if size > MAX_ARRAY_BYTES:
        raise ProtocolError(f"The message holds {size} bytes of arrays, more than {MAX_ARRAY_BYTES}.")


def _decode(header: _Header, frames: Sequence[Buffer], kind: Any) -> Any:
    """The message in `header`, one of the union `kind`, with its arrays taken from `frames`."""
    _check_sizes(frames)
    unused = set(range(1, len(frames)))

    def take(wanted: type, value: Any) -> Any:
        if wanted is not np.ndarray:
            raise NotImplementedError(wanted)  # as above
        ref = msgspec.convert(value, _ArrayRef)
        if ref.frame not in unused:
            raise ProtocolError(f"Frame {ref.frame} is missing, or used twice.")
        unused.remove(ref.frame)
        frame, dtype = frames[ref.frame], _DTYPES[ref.dtype]
        size = memoryview(frame).nbytes
        if size != math.prod(ref.shape) * dtype.itemsize:
            raise ProtocolError(f"A {ref.dtype} array of shape {ref.shape} can't be {size} bytes long.")
        array = np.frombuffer(frame, dtype).reshape(ref.shape)
        # libzmq aligns frames from 8 KiB up; smaller ones may begin anywhere, which torch and OpenImageIO refuse.
        return array if array.flags.aligned else array.copy()

    try:
        message = msgspec.msgpack.decode(header.message, type=kind, dec_hook=take)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise ProtocolError(f"The message isn't one of Panoform's: {error}.") from error
    if unused:
        raise ProtocolError(f"{len(unused)} frames of the message belong to no array.")
    return message
