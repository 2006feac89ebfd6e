import json
import re
import shutil
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from panoform.backend.models import device, hub
from panoform.backend.models.cache import ModelCache
from panoform.backend.models.flux.checkpoints import FLUX_CONFIG, STARTER
from panoform.backend.perception import decode, job
from panoform.backend.perception.job import UNTRAINED, _Sampling, _sampling, preview
from panoform.shared.engines import EngineSettings
from panoform.shared.jobs.perceive import PerceiveRequest, PerceiveSettings
from panoform.shared.maps import DEFAULT_MAPS, MAPS
from panoform.shared.protocol.errors import (
    AdapterError,
    Cancelled,
    DeviceMemoryError,
    PanoramaError,
    SettingError,
    WeightsError,
)

ALL = tuple(MAPS)
HEIGHT = 64


@pytest.fixture(scope="module")
def engine():
    return ModelCache()


@pytest.fixture(scope="module")
def flux_engine():
    return ModelCache()


@pytest.fixture
def flux(tiny_flux, tiny_adapters):
    return EngineSettings(engine="flux", model=str(tiny_flux), adapters=str(tiny_adapters), dtype="fp32")


def scene(height=48, seed=0):
    """Return linear light (height, 2·height, 3), smooth also across the seam, with a sun."""
    lon = (np.arange(2 * height) + 0.5) / height * np.pi
    lat = (0.5 - (np.arange(height) + 0.5) / height)[:, None] * np.pi
    rng = np.random.default_rng(seed)
    light = np.ones((height, 2 * height, 3))
    for wave in range(1, 5):
        amplitude, phase = rng.uniform(-0.3, 0.3, 3), rng.uniform(0, 6, 3)
        light += amplitude * np.sin(wave * lon[None, :, None] + phase) * np.cos(wave * lat)[..., None]
    light = np.exp(light)
    light[height // 3, height // 2] = 5000
    return light.astype(np.float32)


def perceive(engine, reporter, names=ALL, panorama=None, encoding="linear", settings=None, **options):
    request = PerceiveRequest(
        panorama=scene() if panorama is None else panorama,
        encoding=encoding, source="scene", engine=settings or EngineSettings(),
        settings=PerceiveSettings(maps=names, **{"height": HEIGHT} | options),
    )  # fmt: skip
    return job.perceive(request, engine, reporter)


def equal_maps(a, b):
    return a.maps.keys() == b.maps.keys() and all(np.array_equal(a.maps[name], b.maps[name]) for name in a.maps)


# The starter


@pytest.mark.slow
def test_maps_have_the_shapes_and_ranges_of_shared_maps(engine, reporter):
    result = perceive(engine, reporter)
    assert tuple(result.maps) == ALL
    for name, pixels in result.maps.items():
        assert pixels.dtype == np.float32
        assert pixels.shape == (HEIGHT, 2 * HEIGHT, MAPS[name].channels)
        assert np.isfinite(pixels).all()
    assert result.maps["distance"].min() > 0
    np.testing.assert_allclose(np.linalg.norm(result.maps["normal"], axis=-1), 1, atol=1e-5)
    for name in ("albedo", "roughness", "metallic", "semantic"):
        assert 0 <= result.maps[name].min() <= result.maps[name].max() <= 1
    assert result.panorama.shape == (HEIGHT, 2 * HEIGHT, 3)


def test_info_records_the_settings_used(engine, reporter):
    info = perceive(engine, reporter, ["normal", "distance"], seed=7).info
    assert (info.engine, info.model, info.seed, info.num_inference_steps) == ("starter", "built in", 7, 1)
    assert tuple(info.maps) == ("distance", "normal")
    assert "turned" not in info.maps["normal"]
    assert (info.source_size, info.size) == ((48, 96), (HEIGHT, 2 * HEIGHT))
    assert info.exposure["exposure"] > 0
    assert info.dtype == "fp32"
    assert info.seconds.keys() == {"loading", "sampling", "decoding", "all"}
    assert info.seconds["all"] >= info.seconds["sampling"] + info.seconds["decoding"] > 0
    assert info.versions["torch"] == torch.__version__
    assert info.notice in ("", UNTRAINED)


def test_srgb_is_not_exposed(engine, reporter):
    picture = (scene(HEIGHT) / 1000).clip(0, 1)
    result = perceive(engine, reporter, ["distance"], panorama=picture, encoding="srgb")
    assert result.info.exposure is None
    np.testing.assert_array_equal(result.panorama, picture)


@pytest.mark.slow
def test_map_depends_on_the_seed_and_not_on_other_requested_maps(engine, reporter):
    both = perceive(engine, reporter, ["distance", "metallic"])
    assert equal_maps(perceive(ModelCache(), reporter, ["distance", "metallic"]), both)
    assert np.array_equal(perceive(engine, reporter, ["metallic"]).maps["metallic"], both.maps["metallic"])


@pytest.mark.slow
def test_models_stay_loaded_for_each_precision(reporter):
    models = ModelCache()
    perceive(models, reporter, ["distance"])
    loaded = models.latest
    perceive(models, reporter, ["normal"], seed=3)
    assert models.latest is loaded
    perceive(models, reporter, ["distance"], settings=EngineSettings(dtype="bf16"))
    assert models.latest is not loaded
    assert models.latest.pipeline.transformer.dtype == torch.bfloat16
    perceive(models, reporter, ["distance"], settings=EngineSettings(dtype="fp32"))  # equals "auto" on a CPU
    assert models.latest is loaded, "both models fit in memory"
    rounded = perceive(models, reporter, ["distance"], settings=EngineSettings(dtype="int8"))
    assert models.latest is not loaded
    assert rounded.info.dtype == "int8"


@pytest.mark.slow
def test_model_is_unloaded_if_the_next_one_does_not_fit(reporter, monkeypatch):
    models = ModelCache()
    perceive(models, reporter, ["distance"])
    loaded = models.latest
    monkeypatch.setattr("panoform.backend.models.device.memory", lambda _: (2**20, 2**34))
    perceive(models, reporter, ["distance"], settings=EngineSettings(dtype="bf16"))
    perceive(models, reporter, ["distance"])
    assert models.latest is not loaded


@pytest.mark.slow
def test_replaced_weights_are_loaded_again(reporter, tmp_path):
    folder = shutil.copytree(STARTER, tmp_path / "starter")
    models, settings = ModelCache(), EngineSettings(model=str(folder))
    before = perceive(models, reporter, ["distance"], settings=settings)
    file = next((folder / "transformer").glob("*.safetensors"))
    save_file({key: tensor * 0.5 for key, tensor in load_file(file).items()}, file)
    assert not equal_maps(perceive(models, reporter, ["distance"], settings=settings), before)


def test_loaded_model_has_a_label_and_device(reporter):
    models = ModelCache()
    assert models.latest is None
    perceive(models, reporter, ["distance"])
    assert models.latest.label == "Starter (built in, preview quality)"
    assert models.latest.device_label
    free, total = models.latest.device_memory()
    assert 0 < free < total
    models.clear()
    assert models.latest is None


@pytest.mark.slow
def test_progress_is_monotonic_and_complete(engine, reporter):
    engine.clear()
    perceive(engine, reporter, DEFAULT_MAPS, num_inference_steps=3)
    fractions = [fraction for _, _, _, fraction, _ in reporter.reported]
    assert fractions == sorted(fractions)
    assert fractions[0] == 0
    assert fractions[-1] == 1
    stages = [stage for stage, *_ in reporter.reported]
    assert stages[0] == "Loading Starter"
    # The starter runs all its steps in each of two passes.
    steps = [(step, 6) for step in range(1, 7)]
    sampled = "Distance, Normal, Albedo, Roughness, Metallic"
    assert [(step, of) for stage, step, of, *_ in reporter.reported if stage == sampled] == steps
    decoded = [stage for stage in stages if stage.startswith("Decoding ")]
    assert decoded == [f"Decoding {maps}" for maps in ("Distance", "Normal", "Albedo", "Roughness and Metallic")]
    left = [seconds for *_, fraction, seconds in reporter.reported if fraction]
    assert all(seconds >= 0 for seconds in left)
    assert left[-1] == 0


@pytest.mark.slow
def test_starter_processes_a_large_panorama_at_two_heights(engine, reporter):
    result = perceive(engine, reporter, ["distance"], height=320)
    assert {of for stage, _, of, *_ in reporter.reported if stage == "Distance"} == {4}, (
        "two passes at each of two heights"
    )
    assert "computed at 512 × 256, enlarged" in result.info.maps["distance"]
    assert result.maps["distance"].shape == (320, 640, 1)
    small = perceive(engine, reporter, ["distance"], height=128)
    assert "computed at" not in small.info.maps["distance"]


@pytest.mark.slow
def test_previews_are_reported_during_sampling_and_at_the_end(engine, reporter):
    result = perceive(engine, reporter, ["distance", "normal"], num_inference_steps=7)
    # After steps 3, 6, 9 and 12 (7 steps in each of two passes), and at the end.
    assert [name for name, _ in reporter.previews] == ["distance", "normal"] * 5
    for _, picture in reporter.previews:
        assert picture.dtype == np.uint8
        assert picture.shape[1] <= 256
        assert picture.shape[2] == 3
    np.testing.assert_array_equal(reporter.previews[-1][1], preview("normal", result.maps["normal"]))
    assert len({picture.tobytes() for _, picture in reporter.previews}) == 10


def test_cancel_takes_effect_within_one_step(engine, reporter, stopping_reporter):
    before = perceive(engine, reporter, ["distance"])
    stopping = stopping_reporter(lambda stage, step: stage == "Distance, Normal" and step == 2)
    with pytest.raises(Cancelled):
        perceive(engine, stopping, ["distance", "normal"], num_inference_steps=50)
    assert stopping.reported[-1][:3] == ("Distance, Normal", 2, 100)
    assert equal_maps(perceive(engine, reporter, ["distance"]), before)


def test_cancel_takes_effect_within_a_step(engine, reporter, monkeypatch):
    """Between two blocks of the transformer; nothing of the step stays."""
    before = perceive(engine, reporter, ["distance"])
    checks = []

    def check_cancelled():
        checks.append(len(reporter.reported))
        if len(checks) == 12:
            raise Cancelled("Stopped.")

    reporter.reported.clear()
    monkeypatch.setattr(reporter, "check_cancelled", check_cancelled)
    with pytest.raises(Cancelled):
        perceive(engine, reporter, ["distance", "normal"], num_inference_steps=50)
    assert len(checks) == 12
    assert checks[-1] == checks[0], "in the first step"
    monkeypatch.undo()
    assert equal_maps(perceive(engine, reporter, ["distance"]), before)


# FLUX, tiny


@pytest.mark.slow
def test_flux_starts_from_the_seeds_noise(flux_engine, flux, reporter):
    def run(**options):
        return perceive(flux_engine, reporter, ["albedo"], settings=flux, num_inference_steps=1, **options).maps[
            "albedo"
        ]

    assert np.array_equal(run(seed=1), run(seed=1))
    assert not np.array_equal(run(seed=1), run(seed=2))
    assert not np.array_equal(run(seed=1), run(seed=1, guidance_scale=9.0))


def test_unset_settings_are_the_defaults_of_the_model(flux_engine, flux, reporter):
    unset = PerceiveSettings(maps=ALL)
    assert _sampling(unset, FLUX_CONFIG) == _Sampling(28, 3.5, 512, 0)
    info = perceive(flux_engine, reporter, ["albedo"], settings=flux, num_inference_steps=1, guidance_scale=0).info
    assert (info.num_inference_steps, info.guidance_scale, info.notice) == (1, 0, "")


def test_flux_normals_are_turned_to_agree_with_distance(flux_engine, flux, reporter):
    def run(names):
        return perceive(flux_engine, reporter, names, settings=flux, num_inference_steps=1)

    alone, both = run(["normal"]), run(["distance", "normal"])
    assert "not reliable" in alone.info.maps["normal"]
    yaw_deg = float(re.search(r"by (-?[\d.]+)°", both.info.maps["normal"])[1])
    turned, found = decode.realign_yaw(alone.maps["normal"], both.maps["distance"])
    assert yaw_deg == pytest.approx(found, abs=0.06)
    assert np.array_equal(both.maps["normal"], turned)


@pytest.mark.parametrize("file", ["rgb_to_albedo/rgb", "rgb_to_albedo/albedo"])
def test_every_adapter_of_a_task_affects_the_result(flux_engine, flux, reporter, tiny_adapters, tmp_path, file):
    shutil.copytree(tiny_adapters, tmp_path / "zeroed")
    weights = tmp_path / "zeroed" / file / "pytorch_lora_weights.safetensors"
    save_file({key: tensor * ("lora_A" in key) for key, tensor in load_file(weights).items()}, weights)
    zeroed = EngineSettings(engine="flux", model=flux.model, adapters=str(tmp_path / "zeroed"), dtype="fp32")
    with_adapter = perceive(flux_engine, reporter, ["albedo"], settings=flux, num_inference_steps=1)
    without = perceive(ModelCache(), reporter, ["albedo"], settings=zeroed, num_inference_steps=1)
    assert np.abs(with_adapter.maps["albedo"] - without.maps["albedo"]).max() > 1e-3


# Invalid input


def check_rejected(kind, message, engine, reporter, **options):
    with pytest.raises(kind, match=message) as caught:
        perceive(engine, reporter, **options)
    assert caught.value.hint
    return caught.value


def test_panorama_that_is_not_two_to_one_is_rejected(engine, reporter):
    check_rejected(PanoramaError, "not 2:1", engine, reporter, panorama=np.ones((64, 64, 3), np.float32))


def test_nan_is_rejected_or_repaired(engine, reporter):
    panorama = scene()
    panorama[0, 0] = np.nan
    check_rejected(PanoramaError, "1 not a number", engine, reporter, panorama=panorama)
    assert perceive(engine, reporter, ["distance"], panorama=panorama, repair=True).maps


def test_black_panorama_is_rejected(engine, reporter):
    check_rejected(PanoramaError, "black everywhere", engine, reporter, panorama=np.zeros((32, 64, 3), np.float32))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"names": ("depth",)}, "No map is called 'depth'"),
        ({"names": ()}, "No map was asked for"),
        ({"num_inference_steps": 0}, "number of steps is 0"),
        ({"num_inference_steps": 201}, "number of steps is 201"),
        ({"guidance_scale": 31.0}, "Guidance is 31"),
        ({"guidance_scale": float("nan")}, "Guidance is nan"),
        ({"seed": -1}, "seed is -1"),
        ({"seed": 2**32}, "seed is 4"),
        ({"height": 100}, "not a multiple of 16"),
        ({"height": 4096}, "height is 4096"),
        ({"settings": EngineSettings(engine="sdxl")}, "no engine called 'sdxl'"),
        ({"settings": EngineSettings(dtype="int4")}, "no dtype called 'int4'"),
        ({"settings": EngineSettings(device="tpu")}, "device"),
        ({"settings": EngineSettings(device="not a device")}, "no device called"),
        ({"settings": EngineSettings(device="cuda:9")}, "not on this computer"),
        ({"settings": EngineSettings(device="cpu", offload="model")}, "runs on the CPU"),
    ],
)
def test_invalid_setting_is_rejected(engine, reporter, options, message):
    check_rejected(SettingError, message, engine, reporter, **options)


def test_missing_adapter_is_reported_before_loading(reporter, tiny_flux, tiny_adapters, tmp_path):
    shutil.copytree(tiny_adapters / "rgb_to_depth", tmp_path / "rgb_to_depth")
    settings = EngineSettings(engine="flux", model=str(tiny_flux), adapters=str(tmp_path))
    engine = ModelCache()
    error = check_rejected(
        AdapterError, "rgb_to_normal", engine, reporter, names=["distance", "normal"], settings=settings
    )
    assert "rgb_to_normal" in error.hint
    assert engine.latest is None


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


_LIMITED_MEMORY = """
import resource, sys
import numpy as np
from panoform.backend.models.cache import ModelCache
from panoform.backend.perception import job
from panoform.shared.engines import EngineSettings
from panoform.shared.jobs.perceive import PerceiveRequest, PerceiveSettings
from panoform.shared.protocol.errors import DeviceMemoryError

class Silent:
    def progress(self, *_): pass
    def preview(self, *_): pass
    def check_cancelled(self): pass

def perceive(height):
    request = PerceiveRequest(panorama=panorama, encoding="srgb", engine=EngineSettings(model=sys.argv[1]),
        settings=PerceiveSettings(maps=("albedo",), height=height))
    return job.perceive(request, models, Silent())

panorama = np.random.default_rng(0).random((64, 128, 3)).astype(np.float32)
models = ModelCache()
small = perceive(64).maps["albedo"]
used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + 150 * 2**20,) * 2)
try:
    perceive(512)
except DeviceMemoryError as error:
    print(error)
print(np.array_equal(perceive(64).maps["albedo"], small))
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="RLIMIT_AS")
def test_out_of_memory_is_reported_and_the_model_stays_usable(tmp_path):
    folder = shutil.copytree(STARTER, tmp_path / "starter")
    config = json.loads((folder / "panoform.json").read_text(encoding="utf-8"))
    del config["heights"]
    (folder / "panoform.json").write_text(json.dumps(config), encoding="utf-8")
    done = subprocess.run(
        [sys.executable, "-c", _LIMITED_MEMORY, str(folder)], capture_output=True, text=True, check=True
    )
    message, usable = done.stdout.splitlines()
    assert re.match(r"(Encoding the panorama|Albedo) at 1024 × 512 ran out of memory on CPU", message)
    assert re.search(r"\d+(\.\d)? (MB|GB) more were requested", message)
    assert "Lower the height" in message
    assert "offload" not in message, "on a CPU, offloading does not help"
    assert usable == "True"


def test_out_of_memory_of_cuda_is_translated():
    message = r"Normal at 1024 × 512 ran out of memory .*\(1\.3 GB more"
    translated = device.translate_out_of_memory("Normal at 1024 × 512", torch.device("cpu"), "Lower it.")
    with pytest.raises(DeviceMemoryError, match=message), translated:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 1.30 GiB. GPU 0 has a total …")


def test_other_errors_are_not_translated():
    with pytest.raises(RuntimeError, match="shape"), device.translate_out_of_memory("x", torch.device("cpu")):
        raise RuntimeError("shape mismatch")
