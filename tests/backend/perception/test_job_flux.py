"""Perception with a tiny FLUX, and adapters from a folder and from a hub."""

import json
import re
import shutil
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest
import torch
from perceiving import ALL, check_rejected, equal_maps, perceive
from safetensors.torch import load_file, save_file

from panoform.backend.models import hub
from panoform.backend.models.cache import ModelCache
from panoform.backend.models.flux.checkpoints import FLUX_CONFIG
from panoform.backend.perception import decode
from panoform.backend.perception.job import _Sampling, _sampling
from panoform.shared.engines import EngineSettings
from panoform.shared.jobs.perceive import PerceiveSettings
from panoform.shared.protocol.errors import AdapterError, Cancelled, WeightsError


@pytest.fixture(scope="module")
def flux_engine():
    return ModelCache()


@pytest.fixture
def flux(fast_flux, tiny_adapters):
    return EngineSettings(engine="flux", model=str(fast_flux), adapters=str(tiny_adapters), dtype="fp32")


@pytest.mark.slow
def test_flux_starts_from_the_seeds_noise(flux_engine, flux, reporter):
    def run(**options):
        return perceive(flux_engine, reporter, ["albedo"], settings=flux, num_inference_steps=1, **options).maps[
            "albedo"
        ]

    assert np.array_equal(run(seed=1), run(seed=1))
    assert not np.array_equal(run(seed=1), run(seed=2))
    assert not np.array_equal(run(seed=1), run(seed=1, guidance_scale=9.0))


@pytest.mark.slow
def test_unset_settings_are_the_defaults_of_the_model(flux_engine, flux, reporter):
    unset = PerceiveSettings(maps=ALL)
    assert _sampling(unset, FLUX_CONFIG) == _Sampling(28, 3.5, 512, 0)
    info = perceive(flux_engine, reporter, ["albedo"], settings=flux, num_inference_steps=1, guidance_scale=0).info
    assert (info.num_inference_steps, info.guidance_scale, info.notice) == (1, 0, "")


@pytest.mark.slow
def test_flux_normals_are_turned_to_agree_with_distance(flux_engine, flux, reporter):
    def run(names):
        return perceive(flux_engine, reporter, names, settings=flux, num_inference_steps=1)

    alone, both = run(["normal"]), run(["distance", "normal"])
    assert "not reliable" in alone.info.maps["normal"]
    yaw_deg = float(re.search(r"by (-?[\d.]+)°", both.info.maps["normal"])[1])
    turned, found = decode.realign_yaw(alone.maps["normal"], both.maps["distance"])
    assert yaw_deg == pytest.approx(found, abs=0.06)
    assert np.array_equal(both.maps["normal"], turned)


@pytest.mark.slow
@pytest.mark.parametrize("file", ["rgb_to_albedo/rgb", "rgb_to_albedo/albedo"])
def test_every_adapter_of_a_task_affects_the_result(flux_engine, flux, reporter, tiny_adapters, tmp_path, file):
    shutil.copytree(tiny_adapters, tmp_path / "zeroed")
    weights = tmp_path / "zeroed" / file / "pytorch_lora_weights.safetensors"
    save_file({key: tensor * ("lora_A" in key) for key, tensor in load_file(weights).items()}, weights)
    zeroed = EngineSettings(engine="flux", model=flux.model, adapters=str(tmp_path / "zeroed"), dtype="fp32")
    with_adapter = perceive(flux_engine, reporter, ["albedo"], settings=flux, num_inference_steps=1)
    without = perceive(ModelCache(), reporter, ["albedo"], settings=zeroed, num_inference_steps=1)
    assert np.abs(with_adapter.maps["albedo"] - without.maps["albedo"]).max() > 1e-3


def test_missing_adapter_is_reported_before_loading(reporter, fast_flux, tiny_adapters, tmp_path):
    shutil.copytree(tiny_adapters / "rgb_to_depth", tmp_path / "rgb_to_depth")
    settings = EngineSettings(engine="flux", model=str(fast_flux), adapters=str(tmp_path))
    engine = ModelCache()
    error = check_rejected(
        AdapterError, "rgb_to_normal", engine, reporter, names=["distance", "normal"], settings=settings
    )
    assert "rgb_to_normal" in error.hint
    assert engine.latest is None


def test_adapter_in_another_precision_is_refused_before_loading(reporter, fast_flux, tiny_adapters, tmp_path):
    folder = shutil.copytree(tiny_adapters / "rgb_to_depth", tmp_path / "rgb_to_depth")
    file = folder / "depth" / "pytorch_lora_weights.safetensors"
    save_file({key: x.to(torch.float8_e4m3fn) for key, x in load_file(file).items()}, file)
    settings, engine = EngineSettings(engine="flux", model=str(fast_flux), adapters=str(tmp_path)), ModelCache()
    error = check_rejected(AdapterError, "is F8_E4M3", engine, reporter, names=["distance"], settings=settings)
    assert "OmniX's" in error.hint
    assert engine.latest is None
    assert not any(stage.startswith("Loading FLUX") for stage, *_ in reporter.reported)


@pytest.fixture
def hub_repository(tiny_adapters, monkeypatch, tmp_path):
    """Serve owner/OmniX from a local hub. Yield an event, before which no file is sent, and the list of requests."""
    import huggingface_hub

    released, requests = threading.Event(), []

    class Hub(BaseHTTPRequestHandler):
        def do_GET(self):
            requests.append(self.path)
            files = {file.relative_to(tiny_adapters).as_posix(): file for file in tiny_adapters.rglob("*.safetensors")}
            tree = [
                {"type": "file", "path": name, "oid": name, "size": file.stat().st_size} for name, file in files.items()
            ]
            repository = {"id": "owner/OmniX", "sha": "0" * 40, "siblings": [{"rfilename": name} for name in files]}
            name = self.path.partition("/resolve/")[2].partition("/")[2]
            if name and name not in files:
                self.send_response(404)
                self.send_header("X-Error-Code", "EntryNotFound")
                self.send_header("Content-Length", "0")
                self.end_headers()
                return
            body = (
                files[name].read_bytes() if name else json.dumps(tree if "/tree/" in self.path else repository).encode()
            )
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.send_header("ETag", f'"{abs(hash(self.path)):x}"')
            self.send_header("X-Repo-Commit", "0" * 40)
            self.end_headers()
            if self.command == "GET":
                if "resolve" in self.path:
                    released.wait(60)
                self.wfile.write(body)

        do_HEAD = do_GET

        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    address = f"http://127.0.0.1:{server.server_port}"
    template = address + "/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", address)
    monkeypatch.setattr(huggingface_hub.constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    yield released, requests
    released.set()
    server.shutdown()
    server.server_close()


@pytest.mark.slow
def test_adapters_are_downloaded_from_the_hub_with_progress(
    hub_repository, flux_engine, flux, reporter, stopping_reporter
):
    released, requests = hub_repository

    def release(stage, _step):
        if stage.startswith("Downloading owner/OmniX"):
            released.set()

    settings = EngineSettings(engine="flux", model=flux.model, adapters="owner/OmniX", dtype="fp32")
    watching = stopping_reporter(release)
    made = perceive(flux_engine, watching, ["albedo"], settings=settings, num_inference_steps=1)
    assert any(stage.startswith("Downloading owner/OmniX") for stage, *_ in watching.reported)
    assert equal_maps(made, perceive(flux_engine, reporter, ["albedo"], settings=flux, num_inference_steps=1))
    assert not any("depth" in path for path in requests)


def test_revision_is_requested_and_its_commit_is_known(hub_repository, reporter, tmp_path):
    released, requests = hub_repository
    released.set()
    folder = hub.fetch("owner/OmniX@v1", ["rgb_to_depth/depth/*"], tmp_path, reporter)
    assert hub.revision_of(folder) == "0" * 40
    assert any("v1" in path for path in requests)
    assert not any("main" in path for path in requests)


def test_download_of_adapters_can_be_cancelled(hub_repository, flux, stopping_reporter):
    released, _ = hub_repository

    def stop(stage, _step):
        if not stage.startswith("Downloading"):
            return False
        released.set()
        return True

    settings = EngineSettings(engine="flux", model=flux.model, adapters="owner/OmniX", dtype="fp32")
    engine = ModelCache()
    with pytest.raises(Cancelled):
        perceive(engine, stopping_reporter(stop), ["albedo"], settings=settings)
    assert engine.latest is None


def test_adapters_of_another_model_are_rejected(reporter, tiny_adapters):
    settings = EngineSettings(adapters=str(tiny_adapters))
    check_rejected(
        AdapterError, "not an adapter of this model", ModelCache(), reporter, names=["distance"], settings=settings
    )


def test_folder_without_weights_is_rejected(reporter, tmp_path):
    settings = EngineSettings(engine="flux", model=str(tmp_path))
    check_rejected(WeightsError, "model_index.json is missing", ModelCache(), reporter, settings=settings)
