"""Encode messages as ZeroMQ frames: one msgpack header, then the raw bytes of the arrays.

    frame 0      {"version": 1, "message": {"type": "PerceiveRequest", "id": …, "panorama": {"frame": 1, "dtype":
                 "float32", "shape": [512, 1024, 3]}, …}}
    frame 1 …    one array each, C-contiguous, little-endian, not copied on either side

Received messages are validated against the message types before use; nothing received is ever executed.
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
#: Total size of the arrays of a message: the largest panorama, float32 RGB, at most 1 % higher than half its width.
MAX_ARRAY_BYTES = MAX_PANORAMA_WIDTH**2 // 2 * 3 * 4 * 101 // 100
#: For ZMQ_MAXMSGSIZE, which counts one frame and its encryption.
MAX_FRAME_BYTES = MAX_ARRAY_BYTES + 2**10

_DTYPES = {"float32": np.dtype("<f4"), "uint8": np.dtype("u1"), "uint16": np.dtype("<u2"), "uint32": np.dtype("<u4")}


class _ArrayRef(msgspec.Struct, forbid_unknown_fields=True):
    """Reference to an array, in its place in the header."""

    frame: Annotated[int, msgspec.Meta(ge=1)]
    dtype: Literal["float32", "uint8", "uint16", "uint32"]
    shape: Annotated[tuple[Annotated[int, msgspec.Meta(ge=1)], ...], msgspec.Meta(min_length=1, max_length=3)]


class _Header(msgspec.Struct):
    """Frame 0. `message` stays undecoded until `version` has been checked; other versions may have more fields."""

    version: int
    message: msgspec.Raw = msgspec.Raw()


class _OnlyId(msgspec.Struct):
    id: str


def _types(*bases: type[Message]) -> Any:
    """Return the union of all message types that derive from `bases`, including those of all jobs."""
    from .. import jobs  # noqa: F401  # registers the messages of jobs, which import this package

    found, todo = [], list(bases)
    while todo:
        cls = todo.pop()
        todo += cls.__subclasses__()
        if not cls.__subclasses__():
            found.append(cls)
    return Union[tuple(found)]  # noqa: UP007


def encode(message: Message) -> list[Buffer]:
    """Encode a message as frames. Its arrays must not change until they are sent.

    Arrays that are not C-contiguous are copied. Raise ProtocolError for an array that can't be sent (dtype, more than
    three dimensions, empty, too large).
    """
    frames: list[Buffer] = [b""]

    def extract_array(value: Any) -> Any:
        if not isinstance(value, np.ndarray):
            raise NotImplementedError(type(value))  # makes msgspec raise its own TypeError
        if value.dtype not in _DTYPES.values() or not 1 <= value.ndim <= 3 or not value.size:
            raise ProtocolError(f"A {value.dtype} array of shape {value.shape} can't be sent.")
        frames.append(np.ascontiguousarray(value).data.cast("B"))
        return _ArrayRef(len(frames) - 1, value.dtype.name, value.shape)  # pyright: ignore[reportArgumentType]

    try:
        body = msgspec.msgpack.encode(message, enc_hook=extract_array)
    except (UnicodeError, OverflowError, RecursionError) as error:
        raise ProtocolError(
            f"The message can't be sent: {error}.", "Rename files whose names are not UTF-8."
        ) from error
    frames[0] = msgspec.msgpack.encode(_Header(PROTOCOL_VERSION, msgspec.Raw(body)))
    _check_sizes(frames)
    return frames


def decode_request(frames: Sequence[Buffer]) -> Request:
    """Decode a request of the add-on, in the backend. Errors as in `decode_answer`."""
    header = _read_header(frames)
    if header.version != PROTOCOL_VERSION:
        raise version_error(addon=header.version, backend=PROTOCOL_VERSION)
    if read_id(frames) is None:
        raise ProtocolError("The request has no id.")
    return _decode(header, frames, _types(Request))


def decode_answer(frames: Sequence[Buffer]) -> Event | Reply:
    """Decode a message of the backend, in the add-on.

    The arrays are views of the frames. Raise BackendVersionError for another protocol version, ProtocolError for an
    invalid message: unknown type, field or dtype, an array whose size doesn't match its shape, an unreferenced frame,
    too many bytes.
    """
    header = _read_header(frames)
    if header.version != PROTOCOL_VERSION:
        raise version_error(addon=PROTOCOL_VERSION, backend=header.version)
    return _decode(header, frames, _types(Event, Reply))


def read_id(frames: Sequence[Buffer]) -> str | None:
    """Return the id of a message that can't be decoded, to reply to it; None where it has no valid id."""
    try:
        found = msgspec.msgpack.decode(_read_header(frames).message, type=_OnlyId).id
    except (ProtocolError, msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return None
    return found if 1 <= len(found) <= 64 else None


def version_error(*, addon: int, backend: int) -> BackendVersionError:
    """Return the error for different protocol versions, naming both and the side to update."""
    return BackendVersionError(
        f"The backend uses protocol version {backend}, the add-on version {addon}.",
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
    """Decode the message in `header`, one of the union `kind`, with its arrays from `frames`."""
    _check_sizes(frames)
    unused = set(range(1, len(frames)))

    def resolve_array(expected: type, value: Any) -> Any:
        if expected is not np.ndarray:
            raise NotImplementedError(expected)  # as above
        ref = msgspec.convert(value, _ArrayRef)
        if ref.frame not in unused:
            raise ProtocolError(f"Frame {ref.frame} is missing, or used twice.")
        unused.remove(ref.frame)
        frame, dtype = frames[ref.frame], _DTYPES[ref.dtype]
        size = memoryview(frame).nbytes
        if size != math.prod(ref.shape) * dtype.itemsize:
            raise ProtocolError(f"A {ref.dtype} array of shape {ref.shape} can't be {size} bytes long.")
        array = np.frombuffer(frame, dtype).reshape(ref.shape)
        # libzmq aligns frames from 8 KiB up; torch and OpenImageIO reject unaligned arrays, which smaller ones may be.
        return array if array.flags.aligned else array.copy()

    try:
        message = msgspec.msgpack.decode(header.message, type=kind, dec_hook=resolve_array)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise ProtocolError(f"The message is invalid: {error}.") from error
    if unused:
        raise ProtocolError(f"{len(unused)} frames of the message are not used by any array.")
    return message
