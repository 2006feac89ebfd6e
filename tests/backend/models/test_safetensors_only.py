"""Weights are loaded from safetensors only: pickles can run code."""

import ast
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

import panoform.backend
from panoform.backend.models.flux import checkpoints, text_encoding
from panoform.backend.pipelines.dit360 import DiT360Pipeline
from panoform.backend.pipelines.omnix import OmniXPipeline
from panoform.shared.engines import EngineSettings
from panoform.shared.protocol.errors import AdapterError, WeightsError

GOLDEN = Path(__file__).parents[2] / "golden"
BACKEND = Path(panoform.backend.__path__[0])
#: Methods that load weights, by default also from pickles.
LOADERS = ("from_pretrained", "lora_state_dict")
#: Modules, and functions of modules, that read pickles.
PICKLES = {"pickle", "dill", "joblib", "cloudpickle", "shelve"}
#: Calls that load no weights: these tokenizers read JSON and text only.
NO_WEIGHTS = {"CLIPTokenizer.from_pretrained", "T5TokenizerFast.from_pretrained"}
#: What reads safetensors, and the one module that may import it.
READERS, LOADER = {"safe_open", "load_file", "load", "load_model"}, "models/weights.py"
#: Methods of diffusers and torch that have no option to reject pickles, or also read other files.
BANNED = {"torch.load", "from_single_file", "load_lora_adapter", "load_textual_inversion", "load_checkpoint_in_model"}


def find_unsafe_calls(source: str, name: str = "") -> list[str]:
    """Return the lines of `source`, the module `name`, that could load a pickle, or load weights by themselves."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("safetensors") and name != LOADER:
            found += [f"{node.lineno}: {alias.name}" for alias in node.names if alias.name in READERS]
        if isinstance(node, ast.Import | ast.ImportFrom):
            names = [node.module or ""] if isinstance(node, ast.ImportFrom) else [alias.name for alias in node.names]
            found += [f"{node.lineno}: import {name}" for name in names if name.partition(".")[0] in PICKLES]
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
            keywords = {keyword.arg: ast.unparse(keyword.value) for keyword in node.keywords}
            # `use_safetensors=use_safetensors` forwards a pipeline's own argument; a test below checks its default.
            safe = keywords.get("use_safetensors") in ("True", "use_safetensors")
            if node.func.attr in LOADERS and not safe and ast.unparse(node.func) not in NO_WEIGHTS:
                found.append(f"{node.lineno}: {node.func.attr} without use_safetensors=True")
            if node.func.attr in BANNED or ast.unparse(node.func) in BANNED:
                found.append(f"{node.lineno}: {ast.unparse(node.func)}")
            if keywords.get("allow_pickle") == "True":
                found.append(f"{node.lineno}: allow_pickle")
    return found


@pytest.mark.parametrize(
    "source",
    [
        "FluxPipeline.from_pretrained(folder)",
        "FluxPipeline.from_pretrained(folder, use_safetensors=False)",
        "pipeline.lora_state_dict(file)",
        "torch.load(file, weights_only=True)",
        "import pickle",
        "from safetensors import safe_open",
        "from safetensors.torch import load_file",
        "np.load(file, allow_pickle=True)",
    ],
)
def test_unsafe_calls_are_detected(source):
    assert find_unsafe_calls(source)


def test_backend_has_no_unsafe_calls():
    files = sorted(BACKEND.rglob("*.py"))
    assert len(files) > 50
    found = {
        str(file.relative_to(BACKEND)): find_unsafe_calls(file.read_text("utf-8"), file.relative_to(BACKEND).as_posix())
        for file in files
    }
    assert not {name: lines for name, lines in found.items() if lines}


class Malicious:
    """Creates a file when it is unpickled."""

    def __init__(self, file):
        self.file = file

    def __reduce__(self):
        return Path.touch, (self.file,)


def replace_by_pickle(folder, stem, content):
    """Replace the safetensors file in a folder by a pickle."""
    for file in folder.glob("*.safetensors"):
        state = load_file(file)
        file.unlink()
        torch.save(state if content is None else content, folder / f"{stem}.bin")


@pytest.mark.parametrize("part", ["text_encoder", "text_encoder_2"])
@pytest.mark.parametrize("malicious", [False, True])
def test_pickled_text_encoders_are_rejected(tiny_flux, tmp_path, reporter, part, malicious):
    folder, trace = tmp_path / "FLUX", tmp_path / "trace"
    shutil.copytree(tiny_flux, folder)
    replace_by_pickle(folder / part, "pytorch_model", Malicious(trace) if malicious else None)
    checkpoint = checkpoints.locate(EngineSettings(engine="flux", model=str(folder)), reporter)
    with pytest.raises(WeightsError, match=r"no \.safetensors file.*pickle") as caught:
        text_encoding.encode(checkpoint, ["a courtyard"], reporter)
    assert str(folder / part) in caught.value.message
    assert caught.value.hint
    assert not trace.exists()


@pytest.mark.parametrize("kind", [OmniXPipeline, DiT360Pipeline])
def test_pipelines_reject_pickles_by_default(kind, tmp_path):
    shutil.copytree(GOLDEN / "tiny-flux", tmp_path / "FLUX")
    assert kind.from_pretrained(tmp_path / "FLUX").transformer is not None
    replace_by_pickle(tmp_path / "FLUX" / "vae", "diffusion_pytorch_model", None)
    with pytest.raises(OSError, match="safetensors"):
        kind.from_pretrained(tmp_path / "FLUX")
    assert kind.from_pretrained(tmp_path / "FLUX", use_safetensors=None).vae is not None


@pytest.mark.parametrize("kind", [OmniXPipeline, DiT360Pipeline])
def test_pickled_loras_are_rejected(kind, tmp_path):
    torch.save(load_file(GOLDEN / "adapters" / "dit360" / "adapter_model.safetensors"), tmp_path / "lora.bin")
    with pytest.raises(AdapterError, match="can't be read"):
        kind.from_pretrained(GOLDEN / "tiny-flux").load_lora_weights(tmp_path / "lora.bin")
