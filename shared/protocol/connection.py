"""The connection file: the address and keys with which the add-on connects to the backend it started."""

from __future__ import annotations

from pathlib import Path

import msgspec

from ..atomic_write import atomic_write
from .errors import OutputError, ProtocolError
from .messages import PROTOCOL_VERSION
from .wire import version_error


class Connection(msgspec.Struct, frozen=True, kw_only=True):
    """A running backend. The keys are CURVE keys in Z85; they authorise their holder to send requests."""

    #: "tcp://127.0.0.1:49152"
    endpoint: str
    server_public_key: str
    client_public_key: str
    client_secret_key: str
    #: The backend's messages.PROTOCOL_VERSION and version of Panoform.
    protocol: int
    version: str
    pid: int


class _Protocol(msgspec.Struct):
    protocol: int


def write(path: Path, connection: Connection) -> None:
    """Write the file atomically, readable by its owner only (on Windows: with the permissions of its folder).

    Raise OutputError where it can't be written, or exists already and so may be another backend's.
    """
    if path.exists():
        raise OutputError(
            f"The connection file {path} exists already.",
            "Use one file for each backend, or delete it if no backend is running.",
        )
    atomic_write(path, msgspec.json.encode(connection), mode=0o600)


def read(path: Path) -> Connection:
    """Read the connection file of a backend.

    Raise BackendVersionError for another protocol version, ProtocolError for a file that isn't a connection file,
    FileNotFoundError where it doesn't exist yet.
    """
    text = path.read_bytes()
    try:
        protocol = msgspec.json.decode(text, type=_Protocol).protocol
        if protocol != PROTOCOL_VERSION:
            raise version_error(addon=PROTOCOL_VERSION, backend=protocol)
        return msgspec.json.decode(text, type=Connection)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise ProtocolError(f"{path} isn't a connection file: {error}.") from error
