"""Paths in the home of a user that doesn't exist are those of missing files, wherever weights are named."""

from __future__ import annotations

import ast
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

import panoform.backend
from panoform.backend.models import folders, lora, records
from panoform.backend.models.flux import checkpoints as flux
from panoform.backend.models.flux import stream_adapters
from panoform.backend.models.sd21 import adapter
from panoform.backend.models.sd21 import checkpoints as sd21
from panoform.shared.engines import EngineSettings
from panoform.shared.protocol.errors import AdapterError, ModelError, WeightsError

NOWHERE = "~nosuch-user/x.safetensors"


@pytest.mark.parametrize(
    ("find", "error"),
    [
        (lambda: lora.find(NOWHERE, None), AdapterError),
        (lambda: adapter.find(NOWHERE, "ig2mv"), AdapterError),
        (lambda: stream_adapters.find(NOWHERE, "rgb2x", "depth", local_files_only=True), AdapterError),
        (lambda: sd21.locate(NOWHERE, None), WeightsError),
        (lambda: flux.locate(EngineSettings(engine="flux", model=NOWHERE), None), WeightsError),
        (lambda: flux.locate(EngineSettings(model=NOWHERE), None), WeightsError),
    ],
)
def test_weights_of_an_unknown_user_are_missing(find: Callable[[], object], error: type[ModelError]) -> None:
    with pytest.raises(error, match="nosuch-user"):
        find()


def test_records_name_them() -> None:
    assert records.name(NOWHERE, EngineSettings()) == "x.safetensors"
    assert records.digests(NOWHERE) == {}


@pytest.mark.skipif(sys.platform == "win32", reason="Windows doesn't look users up")
def test_models_folder_of_an_unknown_user_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PANOFORM_MODELS", "~nosuch-user/models")
    with pytest.raises(WeightsError, match="no such user"):
        folders.models_folder()


def test_all_paths_are_expanded_by_it() -> None:
    found = {
        file.name
        for file in Path(panoform.backend.__path__[0]).rglob("*.py")
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8")))
        if isinstance(node, ast.Attribute) and node.attr == "expanduser"
    }
    assert found == {"folders.py"}
