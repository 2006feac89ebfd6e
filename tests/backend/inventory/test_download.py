"""Downloads from a hub on this computer: resumed, checked by their sums, refused where they can't be."""

import errno
import os
import shutil
from collections import namedtuple

import huggingface_hub
import numpy as np
import pytest
from hub_server import serving

from panoform.backend.inventory import download
from panoform.backend.inventory.diagnosis import MULTIVIEW_TASKS
from panoform.backend.models.cache import ModelCache
from panoform.backend.models.flux import checkpoints, stream_adapters, text_encoding
from panoform.backend.models.sd21 import adapter
from panoform.backend.perception.job import MAPS_OF_TASK
from panoform.backend.pipelines import dit360
from panoform.backend.pipelines.omnix import TASKS
from panoform.shared.jobs.models import DownloadRequest
from panoform.shared.protocol.errors import BusyError, Cancelled, OutputError, PanoformError, SettingError, WeightsError
from panoform.shared.weights import WEIGHTS

MV = WEIGHTS["mv-adapter"]
LARGE, SMALL = MV.files
CONTENT = {
    LARGE: np.random.default_rng(0).bytes(50_000),
    SMALL: b"small",
    "README.md": b"not needed",
}


@pytest.fixture
def hub(monkeypatch):
    with serving() as server:
        server.repositories[MV.repository] = dict(CONTENT)
        monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", server.endpoint)
        template = f"{server.endpoint}/{{repo_id}}/resolve/{{revision}}/{{filename}}"
        monkeypatch.setattr(huggingface_hub.constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        monkeypatch.setattr(huggingface_hub.constants, "DOWNLOAD_CHUNK_SIZE", 1000)
        for name in ("NO_PROXY", "no_proxy"):
            monkeypatch.setenv(name, "127.0.0.1")
        yield server


@pytest.fixture
def folder(user_folders):
    return user_folders / "models" / MV.folder


def run(reporter, weights="mv-adapter", repository=""):
    return download.run(DownloadRequest(weights=weights, repository=repository), ModelCache(), reporter)


def contents(folder):
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_files_arrive_whole_and_only_once(hub, reporter, folder):
    reply = run(reporter)
    assert reply.path == str(folder)
    assert contents(folder) == {name: CONTENT[name] for name in MV.files}
    assert reply.bytes == len(CONTENT[LARGE]) + len(CONTENT[SMALL])
    fractions = [fraction for _, _, _, fraction, _ in reporter.reported]
    assert fractions == sorted(fractions)
    assert fractions[-1] == 1
    assert len(hub.sent) == 2
    run(reporter)
    assert len(hub.sent) == 2
    (folder / SMALL).unlink()
    run(reporter)
    assert [file for file, _ in hub.sent[2:]] == [SMALL]
    assert contents(folder) == {name: CONTENT[name] for name in MV.files}
    assert [path.name for path in folder.parent.iterdir() if path.is_dir()] == [MV.folder]


def test_stopped_download_is_resumed(hub, reporter, stopping_reporter, folder):
    def late(stage, _step):
        return stage.startswith("Downloading") and path.exists() and path.stat().st_size >= 20_000

    path = folder.with_name(f"{folder.name} (incomplete)") / LARGE
    with pytest.raises(Cancelled):
        run(stopping_reporter(late))
    arrived = path.stat().st_size
    assert 20_000 <= arrived < 50_000
    assert not folder.exists()
    run(reporter)
    assert hub.sent[-1] == (LARGE, f"bytes={arrived}-")
    assert (folder / LARGE).read_bytes() == CONTENT[LARGE]


def test_lost_connection_is_made_again(hub, reporter, folder):
    hub.drops = 1
    run(reporter)
    assert (folder / LARGE).read_bytes() == CONTENT[LARGE]
    assert [wanted for file, wanted in hub.sent if file == LARGE] == [None, "bytes=25000-"]


@pytest.mark.slow
def test_connection_that_is_lost_over_and_over_is_told_and_what_had_arrived_stays(hub, reporter, folder):
    hub.drops = 20
    with pytest.raises(WeightsError, match="did not deliver"):
        run(reporter)
    hub.drops = 0
    arrived = folder.with_name(f"{folder.name} (incomplete)").joinpath(LARGE).stat().st_size
    assert arrived >= 25_000
    run(reporter)
    assert (LARGE, f"bytes={arrived}-") in hub.sent
    assert (folder / LARGE).read_bytes() == CONTENT[LARGE]


@pytest.mark.parametrize("name", [LARGE, SMALL])
def test_damaged_files_are_refused_and_replaced(hub, reporter, folder, name):
    hub.damaged[name] = bytes(len(CONTENT[name]))
    with pytest.raises(WeightsError, match=f"{name} of {MV.repository} arrived damaged"):
        run(reporter)
    assert not folder.exists()
    hub.damaged.clear()
    run(reporter)
    assert (folder / name).read_bytes() == CONTENT[name]


def test_a_full_disk_is_told_and_what_has_arrived_stays(hub, reporter, folder, monkeypatch):
    """Another program took the room meanwhile: the system raises this in the middle of a file."""
    write = download._Counted.write

    def written(self, data):
        if self._stream.tell() > 20_000:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return write(self, data)

    with monkeypatch.context() as patch:
        patch.setattr(download._Counted, "write", written)
        with pytest.raises(PanoformError, match="disk is full") as caught:
            run(reporter)
    assert caught.value.hint
    assert not folder.exists()
    run(reporter)
    assert contents(folder) == {name: CONTENT[name] for name in MV.files}


@pytest.mark.parametrize("name", MV.files)
def test_a_file_of_the_user_is_never_replaced(hub, reporter, folder, name):
    """One that was tuned, say, or copied in part."""
    folder.mkdir(parents=True)
    (folder / name).write_bytes(b"mine")
    with pytest.raises(OutputError, match="another file than the hub's"):
        run(reporter)
    assert contents(folder) == {name: b"mine"}


def test_too_little_room_is_told_before_anything_arrives(hub, reporter, monkeypatch):
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage(10, 0, 20_000))
    with pytest.raises(OutputError, match=r"needs 0\.1 MB, and 0\.0 MB are free") as caught:
        run(reporter)
    assert "PANOFORM_MODELS" in caught.value.hint
    assert not hub.sent


def test_two_processes_do_not_write_to_one_file(hub, reporter, folder):
    locked = download._locked(folder.with_name(f"{folder.name} (incomplete)"), MV.label)
    with locked, pytest.raises(BusyError, match="MV-Adapter is being downloaded by another program"):
        run(reporter)
    run(reporter)
    assert (folder / LARGE).read_bytes() == CONTENT[LARGE]


def test_gated_repository_names_its_page(hub, reporter):
    hub.gated.add(MV.repository)
    with pytest.raises(WeightsError, match="is gated") as caught:
        run(reporter)
    assert MV.page in caught.value.hint
    assert "preferences" in caught.value.hint


def test_other_refusals(hub, reporter, monkeypatch):
    with pytest.raises(WeightsError, match="neither a folder or file nor a hub repository nobody/nothing"):
        run(reporter, repository="nobody/nothing")
    hub.repositories["owner/other"] = {"README.md": b"empty"}
    with pytest.raises(WeightsError, match="owner/other has none of the files of MV-Adapter"):
        run(reporter, repository="owner/other")
    hub.repositories["owner/evil"] = {"unet/../../../model.safetensors": b"x", "model_index.json": b"{}"}
    with pytest.raises(WeightsError, match="files outside its folder"):
        run(reporter, "sd21", "owner/evil")
    with pytest.raises(SettingError, match="no weights called 'cat'"):
        run(reporter, "cat")
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(WeightsError, match="may not use the internet") as caught:
        run(reporter)
    assert "online access" in caught.value.hint
    assert not hub.sent


def test_full_precision_is_taken_where_there_is_no_half(hub, reporter, user_folders):
    names = ["model_index.json", "unet/config.json", "unet/diffusion_pytorch_model.safetensors", "vae/x.fp16.bin"]
    hub.repositories["owner/full"] = {name: name.encode() for name in names}
    run(reporter, "sd21", "owner/full")
    found = contents(user_folders / "models" / WEIGHTS["sd21"].folder)
    assert set(found) == set(names[:3])


def test_downloads_hold_all_that_the_loaders_look_for():
    tasks = {task: TASKS[task].streams for task in (*MAPS_OF_TASK, "image_to_pano")}
    omnix = {stream_adapters.filenames(task, stream)[0] for task, streams in tasks.items() for stream in streams}
    assert set(WEIGHTS["omnix"].files) == omnix
    assert set(MV.files) == {adapter.filename(task) for task in MULTIVIEW_TASKS}
    assert dit360.ADAPTER_FILE in WEIGHTS["dit360"].files
    flux = set(WEIGHTS["flux"].files)
    assert flux == {*checkpoints.BASE_PATTERNS, *(f"{part}/*" for part in text_encoding._PARTS)}
