"""Adapters are read in every layout and naming; files that do not fit are rejected."""

import json
import os
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import torch
from diffusers import FluxPipeline
from diffusers.models.transformers.transformer_flux import FluxTransformer2DModel
from peft import LoraConfig, get_peft_model_state_dict
from safetensors.torch import load_file, save_file

from panoform.backend.models import hub
from panoform.backend.models.flux import stream_adapters
from panoform.shared.protocol.errors import AdapterError

GOLDEN = Path(__file__).parents[3] / "golden"
FILE = "pytorch_lora_weights.safetensors"
CONFIG = json.loads((GOLDEN / "tiny-flux" / "transformer" / "config.json").read_text())
SHAPES = stream_adapters.targets(CONFIG)
Tensors = dict[str, torch.Tensor]


@pytest.fixture
def state() -> Tensors:
    """Return a valid adapter of rank 4: keys transformer.….lora_A.weight."""
    return load_file(GOLDEN / "adapters" / "rgb_to_depth" / "rgb" / FILE)


@pytest.fixture
def write(tmp_path):
    def write(tensors: Tensors, name: str = "adapter ü.safetensors", metadata: dict[str, str] | None = None) -> Path:
        file = tmp_path / name
        file.parent.mkdir(parents=True, exist_ok=True)
        save_file({key: value.clone().contiguous() for key, value in tensors.items()}, file, metadata)
        return file

    return write


def fused(state: Tensors) -> Tensors:
    """Return the adapter in BFL's naming: q, k, v stacked in A, block-diagonal in B, zero rows for the MLP."""
    state = {key.removeprefix("transformer."): value for key, value in state.items()}
    result = {}
    for i in range(CONFIG["num_layers"]):
        for new, old in (("img_attn.proj", "attn.to_out.0"), ("img_mlp.0", "ff.net.0.proj"), ("img_mlp.2", "ff.net.2")):
            for part in ("lora_A", "lora_B"):
                result[f"double_blocks.{i}.{new}.{part}.weight"] = state[f"transformer_blocks.{i}.{old}.{part}.weight"]
    for kind, new, count, mlp in (
        ("transformer_blocks", "double_blocks.{}.img_attn.qkv", CONFIG["num_layers"], 0),
        ("single_transformer_blocks", "single_blocks.{}.linear1", CONFIG["num_single_layers"], 128),
    ):
        for i in range(count):
            A, B = (
                [state[f"{kind}.{i}.attn.{to}.{part}.weight"] for to in ("to_q", "to_k", "to_v")]
                for part in ("lora_A", "lora_B")
            )
            diagonal = torch.block_diag(*B)
            result[f"{new.format(i)}.lora_A.weight"] = torch.cat(A)
            result[f"{new.format(i)}.lora_B.weight"] = torch.cat([diagonal, diagonal.new_zeros(mlp, diagonal.shape[1])])
    return result


def renamed(state: Tensors, old: str, new: str) -> Tensors:
    return {key.replace(old, new): value for key, value in state.items()}


def kohya(state: Tensors) -> Tensors:
    """Return the adapter in kohya's naming: BFL's with underscores, and an alpha (here the rank) for each pair."""
    result = {}
    for key, value in fused(state).items():
        module, factor, _ = key.rsplit(".", 2)
        module = "lora_unet_" + module.replace(".", "_")
        result[f"{module}.{ {'lora_A': 'lora_down', 'lora_B': 'lora_up'}[factor] }.weight"] = value
        if factor == "lora_A":
            result[f"{module}.alpha"] = torch.tensor(float(len(value)))
    return result


def assert_same(found: stream_adapters.Adapter, expected: stream_adapters.Adapter) -> None:
    assert found.rank == expected.rank
    assert found.layers.keys() == expected.layers.keys()
    for name, factors in expected.layers.items():
        for ours, theirs in zip(found.layers[name], factors, strict=True):
            assert torch.equal(ours, theirs), name


def test_flux_dev_has_228_modules():
    flux = {"num_attention_heads": 24, "attention_head_dim": 128, "num_layers": 19, "num_single_layers": 38}
    shapes = stream_adapters.targets(flux)
    assert len(shapes) == 228
    assert sum(64 * (rows + columns) for rows, columns in shapes.values()) == 112_066_560


def test_targets_match_the_transformers_linears():
    transformer = FluxTransformer2DModel.from_config(CONFIG)
    assert len(SHAPES) == 18
    for name, (rows, columns) in SHAPES.items():
        assert transformer.get_submodule(name).weight.shape == (rows, columns), name


@pytest.mark.parametrize("layout", [f"rgb_to_depth/rgb/{FILE}", "rgb_to_depth_rgb.safetensors"])
def test_both_layouts_are_found(write, state, layout):
    file = write(state, f"my adapters/{layout}")
    folder = file.parents[layout.count("/")]
    assert stream_adapters.find(folder, "rgb_to_depth", "rgb") == file
    assert stream_adapters.find(str(folder), "rgb_to_depth", "rgb") == file


@pytest.mark.parametrize(
    "naming",
    [
        lambda state: renamed(state, "transformer.transformer", "transformer"),
        lambda state: renamed(renamed(state, "transformer.", "base_model.model."), ".weight", ".default.weight"),
        lambda state: renamed(renamed(state, "lora_A", "lora_down"), "lora_B", "lora_up"),
        fused,
        lambda state: {f"diffusion_model.{key}": value for key, value in fused(state).items()},
        kohya,
    ],
    ids=["bare", "peft", "down-up", "bfl", "comfyui", "kohya"],
)
def test_all_namings_load_the_same_adapter(write, state, naming):
    if naming(state).keys() == state.keys():
        pytest.fail("the naming under test changes nothing")
    assert_same(
        stream_adapters.read(write(naming(state)), SHAPES),
        stream_adapters.read(write(state, "plain.safetensors"), SHAPES),
    )


def test_adapter_saved_by_diffusers_is_read(tmp_path):
    """Save with lora_alpha = 2 · rank, which the header records; the scale must be multiplied into B."""
    transformer = FluxTransformer2DModel.from_config(CONFIG)
    config = LoraConfig(r=4, lora_alpha=8, target_modules=list(SHAPES), init_lora_weights=False)
    transformer.add_adapter(config)
    state = get_peft_model_state_dict(transformer, adapter_name="default")
    FluxPipeline.save_lora_weights(
        tmp_path,
        transformer_lora_layers=state,
        transformer_lora_adapter_metadata=transformer.peft_config["default"].to_dict(),
    )
    found = stream_adapters.read(tmp_path / FILE, SHAPES)
    for name, (A, B) in found.layers.items():
        assert torch.equal(A, state[f"{name}.lora_A.weight"])
        assert torch.equal(B, 2 * state[f"{name}.lora_B.weight"])


def test_alpha_tensor_scales_its_module(write, state):
    name, other = "single_transformer_blocks.1.attn.to_v", "transformer_blocks.0.ff.net.2"
    scaled = stream_adapters.read(write(state | {f"transformer.{name}.alpha": torch.tensor(8.0)}), SHAPES)
    plain = stream_adapters.read(write(state, "plain.safetensors"), SHAPES)
    assert torch.equal(scaled.layers[name][1], 2 * plain.layers[name][1])
    assert torch.equal(scaled.layers[other][1], plain.layers[other][1])


def test_inspect_reports_modules_rank_and_dtype(write, state):
    file = write(renamed({k: v.bfloat16() for k, v in state.items()}, "transformer.", ""))
    assert stream_adapters.inspect(file, SHAPES) == stream_adapters.Report(file, 18, 18, 4, "BF16", file.stat().st_size)
    dit360 = stream_adapters.inspect(GOLDEN / "adapters" / "dit360" / "adapter_model.safetensors", SHAPES)
    assert (dit360.filled, dit360.modules) == (14, 18)
    assert "8 missing" in dit360.problem


def without_keys(state: Tensors, *parts: str) -> Tensors:
    return {key: value for key, value in state.items() if not any(part in key for part in parts)}


Q = "transformer.single_transformer_blocks.0.attn.to_q"
LINEAR1, QKV = "single_blocks.0.linear1.lora_B.weight", "double_blocks.1.img_attn.qkv.lora_B.weight"


def of_a_wider_model(state: Tensors) -> Tensors:
    return {key: value.repeat(1, 2) if "lora_A" in key else value.repeat(2, 1) for key, value in state.items()}


def with_changed_element(state: Tensors, key: str, row: int) -> Tensors:
    state = fused(state)
    state[key] = state[key].clone()
    state[key][row, -1] = 1e-6
    return state


def with_averaged_A(state: Tensors) -> Tensors:
    """Replace A of q, k and v by their mean, a mistake of a conversion script."""
    state = fused(state)
    for key in [key for key in state if "qkv" in key or "linear1" in key]:
        rank = 4
        if "lora_A" in key:
            state[key] = state[key].unflatten(0, (3, rank)).mean(dim=0)
        else:
            state[key] = state[key].unflatten(1, (3, rank)).sum(dim=1)
    return state


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (lambda s: without_keys(s, "ff.net"), ["14 of 18 modules", "8 missing", "transformer_blocks.0.ff.net.0.proj"]),
        (lambda s: without_keys(s, f"{Q}.lora_B"), ["17 of 18", "1 missing", "blocks.0.attn.to_q.lora_B"]),
        (lambda s: s | {"transformer.proj_out.lora_A.weight": torch.ones(4, 32)}, ["1 unexpected", "proj_out.lora_A"]),
        (lambda s: renamed(s, "attn", "attention"), ["4 of 18", "28 missing", "28 unexpected", "attention"]),
        (lambda s: s | {"transformer.norm.weight": torch.ones(3)}, ["1 unexpected", "transformer.norm.weight"]),
        (
            lambda s: s | without_keys(fused(s), "single", "img_mlp"),
            ["unexpected", "transformer.transformer_blocks.0.attn"],
        ),
        (of_a_wider_model, ["0 of 18", "36 wrong", "lora_A.weight is 4 × 64, not rank × 32"]),
        (lambda s: s | {f"{Q}.lora_A.weight": torch.ones(8, 32)}, [f"{Q}.lora_B.weight is 32 × 4, not 32 × 8"]),
        (
            lambda s: s | {f"{Q}.lora_A.weight": torch.ones(8, 32), f"{Q}.lora_B.weight": torch.ones(32, 8)},
            ["ranks differ", f"8 at {Q}.lora_A.weight"],
        ),
        (lambda s: s | {f"{Q}.lora_A.weight": torch.ones(4, 32).char()}, [f"{Q}.lora_A.weight is I8"]),
        (lambda s: s | {f"{Q}.lora_A.weight": torch.tensor(1.0)}, [f"{Q}.lora_A.weight is one number"]),
        (lambda s: s | {f"{Q}.alpha": torch.ones(4)}, [f"{Q}.alpha is not one number"]),
        (lambda s: {}, ["0 of 18 modules", "36 missing"]),
        (lambda s: with_changed_element(s, LINEAR1, -1), [LINEAR1, "MLP", "rows from 96"]),
        (lambda s: with_changed_element(s, LINEAR1, 0), [LINEAR1, "not block-diagonal"]),
        (lambda s: with_changed_element(s, QKV, 5), [QKV, "not block-diagonal"]),
        (with_averaged_A, ["qkv.lora_A.weight has rank 4, which can't be divided among q, k and v"]),
    ],
)  # fmt: skip
def test_mismatched_adapter_is_rejected_with_its_keys(write, state, change, named):
    file = write(change(state))
    with pytest.raises(AdapterError) as caught:
        stream_adapters.read(file, SHAPES)
    for words in [str(file), *named]:
        assert words in caught.value.message
    assert caught.value.hint


@pytest.mark.parametrize(
    ("lora_config", "named"),
    [
        ({"transformer.r": 64, "transformer.lora_alpha": 64}, "claims rank 64"),
        ({"r": 4, "use_rslora": True}, "use_rslora"),
        ({"r": 4, "alpha_pattern": {"to_q": 2}}, "alpha_pattern"),
        ("{", "metadata"),
        ([], "metadata"),
        ({"r": "4", "lora_alpha": 4}, "metadata"),
    ],
)
def test_contradictory_metadata_is_rejected(write, state, lora_config, named):
    text = lora_config if isinstance(lora_config, str) else json.dumps(lora_config)
    with pytest.raises(AdapterError, match=named):
        stream_adapters.read(write(state, metadata={"lora_adapter_metadata": text}), SHAPES)


@pytest.mark.parametrize("damage", [lambda d: d[:-100], lambda d: d[:4], lambda d: b"", lambda d: b"x" * 99])
def test_damaged_file_is_rejected(write, state, damage):
    file = write(state)
    file.write_bytes(damage(file.read_bytes()))
    for use in (stream_adapters.read, stream_adapters.inspect):
        with pytest.raises(AdapterError, match="not a whole safetensors file") as caught:
            use(file, SHAPES)
        assert str(file) in caught.value.message


def test_error_for_a_missing_adapter_names_the_expected_paths(tmp_path):
    with pytest.raises(AdapterError, match="no adapter for the stream 'depth'") as caught:
        stream_adapters.find(tmp_path, "rgb_to_depth", "depth")
    assert "rgb_to_depth/depth/pytorch_lora_weights.safetensors" in caught.value.hint
    assert "rgb_to_depth_depth.safetensors" in caught.value.hint
    with pytest.raises(AdapterError, match="no adapter folder"):
        stream_adapters.find(tmp_path / "nowhere", "rgb_to_depth", "depth")


def test_streams_of_different_rank_are_rejected(write, state):
    small = stream_adapters.read(write(state), SHAPES)
    large = {name: (torch.cat([A, A]), torch.cat([B, B], dim=1)) for name, (A, B) in small.layers.items()}
    with pytest.raises(AdapterError, match=r"ranks are 4 in .*, 8 in other"):
        stream_adapters.stack([small, stream_adapters.Adapter(Path("other"), 8, large)], torch.float32)


class Hub(BaseHTTPRequestHandler):
    """The part of the hub's HTTP API that a download needs."""

    body = (GOLDEN / "adapters" / "rgb_to_depth" / "rgb" / FILE).read_bytes()

    def do_GET(self) -> None:
        owner = self.path.split("/")[1]
        revision = self.path.partition("/resolve/")[2].partition("/")[0]
        if owner == "good" and revision != "absent" and self.path.endswith("/rgb_to_depth_rgb.safetensors"):
            self.send_response(200)
            self.send_header("ETag", '"1234"')
            self.send_header("X-Repo-Commit", "0" * 40 if revision == "main" else revision)
            self.send_header("Content-Length", str(len(self.body)))
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(self.body)
            return
        status, code = {"gated": (403, "GatedRepo"), "good": (404, "EntryNotFound")}.get(owner, (401, "RepoNotFound"))
        code = "RevisionNotFound" if revision == "absent" else code
        self.send_response(status)
        self.send_header("X-Error-Code", code)
        self.send_header("X-Error-Message", code)
        self.send_header("Content-Length", "0")
        self.end_headers()

    do_HEAD = do_GET

    def log_message(self, format: str, *args: object) -> None:
        pass


SCRIPT = """
import json, sys
from panoform.backend.models.flux import stream_adapters
from panoform.shared.protocol.errors import AdapterError
results = {}
for source, stream in json.loads(sys.argv[1]):
    try:
        results[f"{source} {stream}"] = str(stream_adapters.find(source, "rgb_to_depth", stream, token="hf_x"))
    except AdapterError as error:
        results[f"{source} {stream}"] = str(error)
print(json.dumps(results))
"""


def find_in_hub(endpoint: str, home: Path, *requests: tuple[str, str], **environment: str) -> dict[str, str]:
    """Return the results of `find` in a process whose hub is `endpoint` (huggingface_hub reads it on import)."""
    environment = os.environ | {
        "HF_ENDPOINT": endpoint,
        "HF_HOME": str(home),
        "HF_HUB_DISABLE_XET": "1",
        "NO_PROXY": "127.0.0.1",
        "no_proxy": "127.0.0.1",
    } | environment  # fmt: skip
    command = [sys.executable, "-c", SCRIPT, json.dumps(requests)]
    result = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120, check=False)
    assert result.returncode == 0, result.stderr
    return json.loads(result.stdout)


@pytest.mark.slow
def test_adapters_are_downloaded_or_the_error_has_a_hint(tmp_path):
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    endpoint = f"http://127.0.0.1:{server.server_port}"
    requests = [("good/OmniX", "rgb"), ("good/OmniX", "depth"), (f"good/OmniX@{'1' * 40}", "rgb")]
    rejected = [("gated/OmniX", "rgb"), ("nobody/OmniX", "rgb"), ("good/OmniX@absent", "rgb")]
    try:
        online = find_in_hub(endpoint, tmp_path, *requests, *rejected)
    finally:
        server.shutdown()
        server.server_close()
    offline = find_in_hub(endpoint, tmp_path, *requests, HF_HUB_OFFLINE="1")

    assert Path(online["good/OmniX rgb"]).read_bytes() == Hub.body
    assert "has no adapter for the stream 'depth'" in online["good/OmniX depth"]
    assert "gated" in online["gated/OmniX rgb"]
    assert "Accept it at https://huggingface.co/gated/OmniX" in online["gated/OmniX rgb"]
    assert "neither a folder or file nor a hub repository nobody/OmniX" in online["nobody/OmniX rgb"]
    assert offline["good/OmniX rgb"] == online["good/OmniX rgb"]
    assert "can't be reached" in offline["good/OmniX depth"]
    assert "rgb_to_depth/depth/pytorch_lora_weights.safetensors" in offline["good/OmniX depth"]

    commit = "1" * 40
    assert hub.revision_of(Path(online["good/OmniX rgb"])) == "0" * 40
    assert hub.revision_of(Path(online[f"good/OmniX@{commit} rgb"])) == commit
    assert offline[f"good/OmniX@{commit} rgb"] == online[f"good/OmniX@{commit} rgb"]
    assert "good/OmniX has no revision absent" in online["good/OmniX@absent rgb"]
