"""The one loader of weights: what it refuses, and how it tells what safetensors raises."""

import json
import pickle
import struct

import pytest
import torch
from safetensors.torch import save_file

from panoform.backend.models import parts, weights
from panoform.backend.models.flux import stream_adapters
from panoform.backend.models.sd21 import adapter
from panoform.shared.protocol.errors import AdapterError, ModelError, WeightsError


def written(path, header: bytes, data=b""):
    path.write_bytes(struct.pack("<Q", len(header)) + header + data)
    return path


def entry(**changes):
    return {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]} | changes


DAMAGED = {
    "empty": lambda path: path.write_bytes(b""),
    "text": lambda path: path.write_bytes(b"<html>404</html>" * 10),
    "zeros": lambda path: path.write_bytes(bytes(100)),
    "huge header": lambda path: path.write_bytes(struct.pack("<Q", 2**63) + b"{}"),
    "no JSON": lambda path: written(path, b"{'a': 1}"),
    "UTF-16": lambda path: written(path, json.dumps({"a": entry()}).encode("utf-16"), bytes(8)),
    "not UTF-8": lambda path: written(path, b'{"\xff": {}}'),
    "deep": lambda path: written(path, b'{"a":' * 50_000 + b"1" + b"}" * 50_000),
    "offsets": lambda path: written(path, json.dumps({"a": entry(data_offsets=[0, 2**62])}).encode(), bytes(8)),
    "shape": lambda path: written(path, json.dumps({"a": entry(shape=[2**40, 2**40])}).encode(), bytes(8)),
    "negative": lambda path: written(path, json.dumps({"a": entry(shape=[-2])}).encode(), bytes(8)),
    "dtype": lambda path: written(path, json.dumps({"a": entry(dtype="OBJECT")}).encode(), bytes(8)),
    "overlap": lambda path: written(path, json.dumps({"a": entry(), "b": entry()}).encode(), bytes(8)),
}


@pytest.mark.parametrize("name", DAMAGED)
def test_damaged_files_are_told(tmp_path, name):
    file = tmp_path / "weights.safetensors"
    DAMAGED[name](file)
    readers = (
        (WeightsError, lambda: weights.load(file)),
        (WeightsError, lambda: parts.read_header(file)),
        (WeightsError, lambda: list(parts.read_tensors(file, ["a"]))),
        (AdapterError, lambda: stream_adapters.inspect(file, {})),
        (AdapterError, lambda: stream_adapters.read(file, {})),
        (AdapterError, lambda: adapter.read(file, {})),
        (AdapterError, lambda: adapter.inspect(file, {})),
    )
    for failure, read in readers:
        with pytest.raises(failure) as caught:
            read()
        assert caught.value.hint
        assert str(file) in str(caught.value)


def test_names_that_the_system_does_not_allow_are_told(tmp_path):
    for name in ("n" * 300 + ".safetensors", "a\0b.safetensors", "\udcff.safetensors"):
        with pytest.raises(WeightsError):
            weights.load(tmp_path / name)


@pytest.mark.parametrize("name", ["model.safetensors", "model.bin", "model.ckpt", "model"])
@pytest.mark.parametrize("protocol", [None, 2, 4])
def test_pickles_are_refused_by_name(tmp_path, name, protocol):
    file = tmp_path / name
    if protocol is None:
        torch.save({"a": torch.zeros(2)}, file)
    else:
        file.write_bytes(pickle.dumps({"a": [0.0, 0.0]}, protocol))
    with pytest.raises(ModelError, match="it is a pickle, which can run code"):
        weights.load(file)


def test_whole_files_are_read(tmp_path):
    file = tmp_path / "a.safetensors"
    # Headers whose length begins with the bytes of a pickle.
    for size in (0x280, 0x380, 0x480, 0x580):
        save_file({"a": torch.arange(4.0)}, file, {"text": "x" * (size - 114)})
        assert weights.load(file)["a"].tolist() == [0, 1, 2, 3]


def test_number_of_tensors_is_bounded(tmp_path, monkeypatch):
    file = tmp_path / "a.safetensors"
    save_file({str(index): torch.zeros(1) for index in range(9)}, file)
    monkeypatch.setattr(weights, "MAX_TENSORS", 8)
    with pytest.raises(WeightsError, match="9 tensors"):
        weights.load(file)
