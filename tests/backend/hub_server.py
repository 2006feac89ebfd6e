"""A Hugging Face Hub on this computer: the part of its HTTP API that downloads need."""

import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

COMMIT = "0123456789abcdef0123456789abcdef01234567"
#: Larger files are stored by Git LFS, with a SHA-256.
_LFS_BYTES = 100


class HubServer(ThreadingHTTPServer):
    """Serves `repositories`: name → file → content. Repositories in `gated` give no file."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.repositories: dict[str, dict[str, bytes]] = {}
        self.gated: set[str] = set()
        #: File → what is sent in its place.
        self.damaged: dict[str, bytes] = {}
        #: (file, Range header) of each download.
        self.sent: list[tuple[str, str | None]] = []
        #: While set, bodies of large files end after half of them, with the connection kept open.
        self.stalls = threading.Event()
        #: How many bodies of large files still end after half of them, with the connection closed.
        self.drops = 0

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class _Handler(BaseHTTPRequestHandler):
    server: HubServer  # pyright: ignore[reportIncompatibleVariableOverride]

    def do_GET(self) -> None:
        path = self.path.partition("?")[0].removeprefix("/")
        if "/tree/" in path:
            self._send_tree(path.removeprefix("api/models/").partition("/tree/")[0])
            return
        if path.startswith("api/models/"):
            self._send_listing(path.removeprefix("api/models/").partition("/revision/")[0])
            return
        repository, _, rest = path.partition("/resolve/")
        file = rest.partition("/")[2]
        content = self.server.repositories.get(repository, {}).get(file)
        if repository in self.server.gated:
            self._send(403, b"", {"X-Error-Code": "GatedRepo", "X-Error-Message": "Access is restricted."})
        elif content is None:
            self._send(404, b"", {"X-Error-Code": "EntryNotFound"})
        else:
            self._send_file(file, self.server.damaged.get(file, content))

    do_HEAD = do_GET

    def _send_listing(self, repository: str) -> None:
        files = self.server.repositories.get(repository)
        if files is None:
            self._send(404, b"", {"X-Error-Code": "RepoNotFound"})
            return
        siblings = [_sibling(name, content) for name, content in files.items()]
        listing = {"id": repository, "sha": COMMIT, "siblings": siblings, "tags": [], "private": False}
        self._send(200, json.dumps(listing).encode(), {"Content-Type": "application/json"})

    def _send_tree(self, repository: str) -> None:
        files = [_sibling(name, content) for name, content in self.server.repositories[repository].items()]
        tree: list[dict] = [
            {"type": "file", "path": file["rfilename"], "oid": file["blobId"], **file} for file in files
        ]
        for file in tree:
            if "lfs" in file:
                file["lfs"] |= {"oid": file["lfs"]["sha256"]}
        self._send(200, json.dumps(tree).encode(), {"Content-Type": "application/json"})

    def _send_file(self, file: str, content: bytes) -> None:
        wanted = self.headers.get("Range")
        if self.command == "GET":
            self.server.sent.append((file, wanted))
        start = int(wanted.removeprefix("bytes=").rstrip("-")) if wanted else 0
        self.send_response(206 if wanted else 200)
        if wanted:
            self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
        self.send_header("Content-Length", str(len(content) - start))
        self.send_header("X-Repo-Commit", COMMIT)
        self.send_header("ETag", f'"{hashlib.sha256(content).hexdigest()}"')
        self.end_headers()
        if self.command == "HEAD":
            return
        body = content[start:]
        if self.server.drops and len(content) > _LFS_BYTES:
            self.server.drops -= 1
            self.wfile.write(body[: len(body) // 2])
            self.close_connection = True
            return
        if self.server.stalls.is_set() and len(content) > _LFS_BYTES:
            self.wfile.write(body[: len(body) // 2])
            self.wfile.flush()
            while self.server.stalls.is_set():
                threading.Event().wait(0.05)
            body = body[len(body) // 2 :]
        self.wfile.write(body)

    def _send(self, status: int, body: bytes, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(body))}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)

    def log_message(self, format: str, *_: object) -> None:
        pass


def _sibling(name: str, content: bytes) -> dict:
    size = len(content)
    git = hashlib.sha1(f"blob {size}\0".encode() + content).hexdigest()
    found: dict = {"rfilename": name, "size": size, "blobId": git}
    if size > _LFS_BYTES:
        found["lfs"] = {"sha256": hashlib.sha256(content).hexdigest(), "size": size, "pointerSize": 130}
    return found


@contextmanager
def serving() -> Iterator[HubServer]:
    """Serve a hub within the block."""
    server = HubServer()
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    try:
        yield server
    finally:
        server.stalls.clear()
        server.shutdown()
        server.server_close()
