"""Records of results name weights without the folders of this computer."""

import hashlib

import msgspec

from panoform.backend.models import records
from panoform.shared.engines import EngineSettings


def test_local_weights_are_named_and_hub_ids_kept(tmp_path):
    model = tmp_path / "Zoë's models" / "FLUX"
    model.mkdir(parents=True)
    for text, name in (
        (str(model), "FLUX"), ("black-forest-labs/FLUX.1-dev@0123", "black-forest-labs/FLUX.1-dev@0123"),
        ("built in", "built in"), (str(tmp_path / "gone.safetensors"), "gone.safetensors"), ("~/x", "x"), ("", ""),
    ):  # fmt: skip
        assert records.name(text, EngineSettings()) == name
        assert records.name(text, EngineSettings(record_paths=True)) == text
    settings = EngineSettings(model=str(model), adapters="KevinHuang/OmniX")
    assert records.engine(settings) == msgspec.structs.replace(settings, model="FLUX")


def test_digests(tmp_path, monkeypatch):
    file, folder = tmp_path / "a.safetensors", tmp_path / "folder"
    file.write_bytes(b"weights" * 1000)
    folder.mkdir()
    (folder / "b.safetensors").write_bytes(b"weights" * 1000)
    (folder / "notes.txt").write_text("not weights")
    found = records.digests(str(file), str(folder), "owner/name", None, str(tmp_path / "gone"))
    assert found == {"a.safetensors": hashlib.sha256(file.read_bytes()).hexdigest(), "folder": found["folder"]}
    (folder / "notes.txt").unlink()
    assert records.digest(folder) == found["folder"]
    (folder / "b.safetensors").write_bytes(b"weighty" * 1000)
    assert records.digest(folder) != found["folder"]
    monkeypatch.setattr(records, "_WHOLE_BYTES", 100)
    monkeypatch.setattr(records, "_END_BYTES", 10)
    large = tmp_path / "large.gguf"
    large.write_bytes(b"weights" * 1000)
    before = records.digest(large)
    large.write_bytes(b"weights" * 999 + b"weightz")
    assert records.digest(large) != before
