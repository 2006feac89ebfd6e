"""The page about models in the preferences, with a real backend and a hub on this computer."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import backend_fixtures
import bpy
import msgspec
import numpy as np
import pytest
from hub_server import HubServer, serving
from recorded_layout import Layout

from panoform.blender_addon import preferences
from panoform.blender_addon.backend import operators
from panoform.blender_addon.jobs.manager import Jobs
from panoform.blender_addon.models import manager
from panoform.blender_addon.models.manager import Models
from panoform.shared.engines import EngineSettings
from panoform.shared.jobs.models import DeviceState, ModelsReply, ModelsRequest, Precision, WeightsState
from panoform.shared.protocol.messages import StatusReply
from panoform.shared.weights import WEIGHTS

tiny_flux = backend_fixtures.load().tiny_flux

MV = WEIGHTS["mv-adapter"]
LARGE, SMALL = MV.files
CONTENT = {LARGE: np.random.default_rng(0).bytes(30_000_000), SMALL: b"small"}
PAGE_PREFERENCES = (
    "flux_model",
    "flux_adapters",
    "flux_found",
    "multiview_model",
    "multiview_adapters",
    "page",
    "device",
    "connection_file",
)


@pytest.fixture
def hub(monkeypatch) -> Iterator[HubServer]:
    with serving() as server:
        server.repositories[MV.repository] = dict(CONTENT)
        for name in ("NO_PROXY", "no_proxy"):
            monkeypatch.setenv(name, "127.0.0.1")
        monkeypatch.setenv("HF_ENDPOINT", server.endpoint)
        yield server


@pytest.fixture
def models(addon: Jobs, hub: HubServer, monkeypatch, tmp_path: Path) -> Iterator[Models]:
    """The models of an empty computer that may use the internet."""
    for name in ("HF_HOME", "HOME", "USERPROFILE", "XDG_CACHE_HOME", "PANOFORM_MODELS"):
        monkeypatch.setenv(name, str(tmp_path / name))
    (tmp_path / "HOME").mkdir()
    monkeypatch.setattr(bpy.context.preferences.system, "use_online_access", True)
    preferences.get().page = "MODELS"
    manager.models.__init__()
    yield manager.models
    manager.models.close(wait=True)
    for name in PAGE_PREFERENCES:
        preferences.get().property_unset(name)


@pytest.fixture
def drawn() -> Callable[..., list[str]]:
    """Draw the preferences, and return their texts."""

    def draw(buttons: dict | None = None) -> list[str]:
        texts: list[str] = []
        context = SimpleNamespace(
            preferences=SimpleNamespace(system=SimpleNamespace(ui_scale=1.0)), region=SimpleNamespace(width=900)
        )
        layout = Layout(texts, {}, buttons)
        preferences.Preferences.draw(_Drawn(layout), context)
        return texts

    return draw


class _Drawn:
    """The preferences, with a layout of our own."""

    def __init__(self, layout: Layout) -> None:
        self.layout = layout

    def __getattr__(self, name: str):
        return getattr(preferences.get(), name)


def poll_until(models: Models, met: Callable[[], bool]) -> None:
    by = time.monotonic() + 60
    while not met():
        models.poll()
        assert time.monotonic() < by, "it never came"
        time.sleep(0.01)


def test_every_page_draws(models: Models, drawn) -> None:
    for page, word in (("BACKEND", "connection_file"), ("MODELS", "flux_model"), ("DEVICE", "offload")):
        preferences.get().page = page
        assert word in drawn()


def test_page_says_what_is_missing_before_it_is_asked(models: Models, drawn) -> None:
    text = " ".join(drawn())
    assert "about 33.7 GB" in text
    assert "Licence: FLUX.1 [dev] Non-Commercial License." in text
    assert "Accept Licence" in text
    assert "Use a Folder I Have" in text


def test_page_says_that_the_backend_of_jobs_holds_memory(models: Models, drawn, addon: Jobs, monkeypatch) -> None:
    large = Precision(dtype="bf16", least=14 * 10**9, everything=30 * 10**9, runs="no")
    gpu = DeviceState(name="cuda:0", label="NVIDIA", memory_free=10**9, memory_total=24 * 10**9)
    models.state = ModelsReply(
        id="x", weights=(), devices=(gpu,), device="cuda:0", precisions={"flux": (large,), "multiview": ()},
        folder="", disk_free=0, seconds=0,
    )  # fmt: skip
    said = "The backend that runs holds FLUX + OmniX in 17.3 GB: once it is stopped, more is free."
    assert said not in drawn()
    status = StatusReply(
        id="x", version="0.1.0", pid=1, running=None, queued=0, engine="FLUX + OmniX", device="NVIDIA",
        memory_free=10**9, memory_total=24 * 10**9, memory_held=17_300_000_000,
    )  # fmt: skip
    monkeypatch.setattr(addon, "session", SimpleNamespace(status=status, client=None, close=lambda: None))
    texts = drawn()
    assert said in texts
    assert "bf16: needs 14.0 GB, more than is free" in texts
    models.state = msgspec.structs.replace(models.state, precisions={"flux": (), "multiview": ()})
    assert said not in drawn(), "all that is asked for fits"


def test_page_says_that_jobs_wait_for_downloads_of_a_running_backend(models: Models, drawn, tmp_path: Path) -> None:
    said = "The running backend does one thing after the other: jobs wait for downloads."
    assert said not in drawn()
    preferences.get().connection_file = str(tmp_path / "backend.json")
    assert said in drawn()


@pytest.mark.slow
def test_without_online_access_nothing_is_downloaded(models: Models, drawn, monkeypatch) -> None:
    monkeypatch.setattr(bpy.context.preferences.system, "use_online_access", False)
    assert "To download, allow online access." in drawn()
    assert not bpy.ops.panoform.download_model.poll()
    with pytest.raises(RuntimeError, match="Allow online access"):
        bpy.ops.panoform.download_model(name="mv-adapter")
    # A job's own downloads neither.
    models.download("mv-adapter")
    models.wait(60)
    assert "may not use the internet" in models.failures["mv-adapter"].message


def test_automatic_uses_flux_once_it_is_found(models: Models, drawn, tmp_path: Path) -> None:
    own, place = preferences.get(), tmp_path / "FLUX.1-dev"
    place.mkdir()

    def answer(*here: str, problem: str = "", model: str | None = None) -> str:
        weights = tuple(
            WeightsState(name=name, place=str(place) if name in here else "", problem=problem if name == "flux" else "")
            for name in ("flux", "omnix")
        )
        reply = ModelsReply(
            id="x", weights=weights, devices=(), device="", precisions={"flux": (), "multiview": ()}, folder="",
            disk_free=0, seconds=0,
        )  # fmt: skip
        request = ModelsRequest(engines=(EngineSettings(engine="flux", model=model),))
        models.tasks.append(manager.Task(request, id="x"))
        models._handle(reply)
        return own.engine_settings("AUTO").engine

    said = "The engine Automatic uses it."
    assert answer("flux") == "starter", "its adapters are missing"
    assert said not in drawn()
    assert answer("flux", "omnix") == "flux"
    assert own.engine_settings("AUTO").model is None
    assert said in drawn()
    assert answer(model="elsewhere") == "flux", "another place was asked for"
    own.connection_file = str(tmp_path / "backend.json")
    assert own.engine_settings("AUTO").engine == "starter", "another computer"
    own.connection_file = ""
    place.rmdir()
    assert own.engine_settings("AUTO").engine == "starter", "nothing is downloaded without being asked for"
    place.mkdir()
    assert answer("flux", "omnix", problem="damaged") == "starter"
    assert own.flux_found == ""


def test_download_keeps_the_model_that_the_user_chose(models: Models) -> None:
    own = preferences.get()
    manager._use_download("flux", "/downloads/FLUX.1-dev")
    assert own.flux_model == "", "it is found by itself, and the file of another computer may be named here later"
    manager._use_download("sd21", "/downloads/sd21")
    assert own.multiview_model == "/downloads/sd21", "else textures are projected"
    manager._use_download("sd21", "/downloads/again")
    assert own.multiview_model == "/downloads/sd21"


def test_chosen_file_is_remembered(models: Models, monkeypatch, tmp_path: Path) -> None:
    bpy.context.preferences.is_dirty = False
    with pytest.raises(RuntimeError, match="No file is selected"):
        bpy.ops.panoform.use_model_file(name="flux", filepath="")
    assert preferences.get().flux_model == ""
    assert not bpy.context.preferences.is_dirty
    manager.use("flux", str(tmp_path))
    assert preferences.get().flux_model == str(tmp_path)
    assert bpy.context.preferences.is_dirty, "else it is forgotten at Blender's end"


@pytest.mark.slow
def test_download_is_stopped_resumed_and_used(
    models: Models, hub: HubServer, drawn, tiny_flux: Path, monkeypatch, tmp_path: Path
) -> None:
    hub.stalls.set()
    models.download("mv-adapter")
    with monkeypatch.context() as without:
        without.delenv("PANOFORM_BACKEND_PYTHON")
        assert "Models are being downloaded" in operators._setup_disabled_reason()
    poll_until(models, lambda: models.download_of("mv-adapter").of > 0)
    texts = drawn()
    assert any(" MB of 30.0 MB" in text for text in texts)
    assert bpy.ops.panoform.cancel_download(name="mv-adapter") == {"FINISHED"}
    assert models.download_of("mv-adapter") is None
    hub.stalls.clear()
    models.wait(120)  # the state is asked for again
    weights = {state.name: state for state in models.state.weights}
    arrived = weights["mv-adapter"].incomplete
    assert 10_000_000 <= arrived < 30_000_000
    texts = drawn()
    assert "Resume Download" in texts
    assert any("have arrived" in text for text in texts)
    assert any(text.startswith("fp32: ") for text in texts)

    assert bpy.ops.panoform.download_model(name="mv-adapter") == {"FINISHED"}
    assert hub.sent[-1] == (LARGE, f"bytes={arrived - len(CONTENT[SMALL])}-")
    folder = Path(models.state.folder) / MV.folder
    assert (folder / LARGE).read_bytes() == CONTENT[LARGE]
    state = next(state for state in models.state.weights if state.name == "mv-adapter")
    assert state.place == str(folder)
    assert any(text.startswith("here, ") for text in drawn())
    assert preferences.get().multiview_adapters == "", "adapters are found by themselves"

    _use_own_files(models, tiny_flux, tmp_path)
    assert models.is_running
    monkeypatch.setattr(manager, "IDLE_S", 0)
    models.poll()
    assert not models.is_running


@pytest.mark.slow
def test_errors_are_shown_beside_their_model(models: Models, hub: HubServer, drawn) -> None:
    hub.gated.add(MV.repository)
    with pytest.raises(RuntimeError, match="is gated"):
        bpy.ops.panoform.download_model(name="mv-adapter")
    assert any("is gated" in text for text in drawn())


def _use_own_files(models: Models, tiny_flux: Path, tmp_path: Path) -> None:
    shutil.copytree(tiny_flux, tmp_path / "FLUX")
    index = tmp_path / "FLUX" / "model_index.json"
    assert bpy.ops.panoform.use_model_file(name="flux", filepath=str(index)) == {"FINISHED"}
    assert preferences.get().flux_model == str(index.parent)
    state = models.state.weights[0]
    assert (state.name, state.place, state.problem) == ("flux", str(index.parent), "")
    assert models.is_current
    with pytest.raises(RuntimeError, match="There is no file or folder"):
        bpy.ops.panoform.use_model_file(name="flux", filepath=str(tmp_path / "absent"))
    devices = preferences._devices_here(preferences.get(), bpy.context, "")
    assert devices[:2] == [("auto", "The best one"), ("cpu", models.state.devices[0].label)]
    preferences.get().device = "cpu"
    assert not models.is_current, "the state is asked for again when the page is shown"
