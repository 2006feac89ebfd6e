"""The proxy of the preferences: a set-up whose packages only it can reach."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import urlsplit

import bpy
import pytest
from wheels import make_wheel

from panoform.blender_addon import preferences
from panoform.blender_addon.backend import proxy, torch_build
from panoform.blender_addon.backend.installer import Setup
from panoform.blender_addon.backend.process import BackendProcess
from panoform.shared.protocol.errors import SettingError

INDEX = "http://packages.invalid/simple/"


@pytest.fixture
def server(tmp_path: Path) -> Iterator[ThreadingHTTPServer]:
    """A proxy that knows an index with one package, and keeps the addresses it is asked for."""
    wheel = make_wheel(tmp_path / "w", "3.0.0", name="other").read_bytes()
    asked: list[str] = []

    class Proxy(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            path = urlsplit(self.path).path
            body = b'<a href="/other-3.0.0-py3-none-any.whl">other-3.0.0-py3-none-any.whl</a>'
            if path.endswith(".whl"):
                body = wheel
            self.send_response(200 if "other" in path else 404)
            self.send_header("Content-Type", "text/html" if path.endswith("/") else "application/octet-stream")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None: ...

    with ThreadingHTTPServer(("127.0.0.1", 0), Proxy) as server:
        server.asked = asked  # pyright: ignore[reportAttributeAccessIssue]
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.shutdown()


@pytest.mark.slow
def test_packages_are_downloaded_through_it(server: ThreadingHTTPServer, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(torch_build, "uv_backend", lambda: None)
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")  # the system's, which is not used then
    monkeypatch.setenv("PIP_TRUSTED_HOST", "packages.invalid")
    variables = proxy.variables(f"http://127.0.0.1:{server.server_port}")
    wheel = make_wheel(tmp_path / "w", requires="other>=3")
    setup = Setup(tmp_path / "data", wheel, Path(sys.executable), packages=INDEX, proxy=variables)
    setup._run()
    assert setup.error is None, setup.log.read_text("utf-8")
    assert "Successfully installed other-3.0.0 panoform-0.1.0" in setup.log.read_text("utf-8")
    assert f"{INDEX}other/" in server.asked  # pyright: ignore[reportAttributeAccessIssue]


def test_backend_gets_it(server: ThreadingHTTPServer, tmp_path: Path, monkeypatch) -> None:
    """Against urllib, which reads the variables as the libraries of the backend do."""
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")
    program = tmp_path / "program.py"
    program.write_text(f"from urllib.request import urlopen\nprint(urlopen({INDEX + 'other/'!r}).status, flush=True)\n")
    variables = proxy.variables(f"http://127.0.0.1:{server.server_port}")
    process = BackendProcess((sys.executable, str(program)), tmp_path / "run", variables=variables)
    while not process.has_exited:
        time.sleep(0.02)
    process.stop(wait=True)
    assert process.log_tail() == "200"


def test_preferences_tell_the_backend_how_it_may_download(addon, monkeypatch) -> None:
    preferences.get().proxy = " http://proxy.studio:3128 "
    monkeypatch.setattr(bpy.context.preferences.system, "use_online_access", True)
    online = preferences.get().network_variables()
    assert online["HTTPS_PROXY"] == "http://proxy.studio:3128"
    assert "HF_HUB_OFFLINE" not in online
    monkeypatch.setattr(bpy.context.preferences.system, "use_online_access", False)
    assert preferences.get().network_variables() == online | {"HF_HUB_OFFLINE": "1"}  # as huggingface_hub names it
    preferences.get().proxy = ""


def test_nothing_changes_without() -> None:
    assert proxy.variables("") == {}


@pytest.mark.parametrize(
    "address", ["proxy.studio:3128", "http://", "http://proxy:many", "socks5://proxy:1080", "ftp://p"]
)
def test_other_addresses_are_refused(address: str) -> None:
    with pytest.raises(SettingError) as caught:
        proxy.variables(address)
    assert "many" not in str(caught.value)
