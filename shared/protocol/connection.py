"""The connection file: how the add-on finds the backend it started, and the keys that let it in."""

from __future__ import annotations

from pathlib import Path

import msgspec

from ..atomic_write import atomic_write
from .errors import OutputError, ProtocolError
from .messages import PROTOCOL_VERSION
from .wire import version_error


class Connection(msgspec.Struct, frozen=True, kw_only=True):
    """One running backend. Keys are CURVE's, in Z85; who holds them may send it work."""

    #: "tcp://127.0.0.1:49152"
    endpoint: str
    server_public_key: str
    client_public_key: str
    client_secret_key: str
    #: messages.PROTOCOL_VERSION and Panoform's version, as the backend has them.
    protocol: int
    version: str
    pid: int


class _Protocol(msgspec.Struct):
    protocol: int


def write(path: Path, connection: Connection) -> None:
    """Writes the file, whole or not at all, readable by its owner only (on Windows: by whoever may read its folder).

    Raises OutputError where it can't be written, or is there already and so may be another backend's.
    """
    if path.exists():
        raise OutputError(
            f"The connection file {path} is there already.",
            "Give each backend its own, or delete it if none is running.",
        )
    atomic_write(path, msgspec.json.encode(connection), mode=0o600)


def read(path: Path) -> Connection:
    """The backend that wrote `path`. Raises BackendVersionError for another protocol version, ProtocolError for a file
    that isn't a connection file, FileNotFoundError where there is none yet."""
    text = path.read_bytes()
    try:
        protocol = msgspec.json.decode(text, type=_Protocol).protocol
        if protocol != PROTOCOL_VERSION:
            raise version_error(addon=PROTOCOL_VERSION, backend=protocol)
        return msgspec.json.decode(text, type=Connection)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise ProtocolError(f"{path} isn't a connection file: {error}.") from error
