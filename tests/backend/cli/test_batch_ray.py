"""`panoform batch --ray` with real workers of Ray: the same results as without, and a worker that is killed."""

import csv
import io
import ipaddress
import json
import stat
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import OpenImageIO as oiio
import psutil
import pytest

from panoform.backend.cli.batch import ray_cluster
from panoform.backend.cli.main import main
from panoform.shared.protocol.errors import BackendError, SettingError

OPTIONS = ("--maps", "distance", "--height", "64")


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("panoramas")
    for index, name in enumerate(("ä.exr", "b.png")):
        pixels = np.random.default_rng(index).uniform(0.1, 1, (64, 128, 3)).astype(np.float32)
        oiio.ImageBuf(pixels).write(str(folder / name), "uint8" if name.endswith("png") else "half")
    return folder


@pytest.fixture
def start():
    """Start the command with `--ray auto`, in the presence of Ray; it ends with the test."""
    pytest.importorskip("ray", reason="Ray isn't installed: pip install -e '.[ray]'")
    processes: list[subprocess.Popen[str]] = []

    def start(folder: Path, out: Path, *options: str) -> subprocess.Popen[str]:
        command = [sys.executable, "-m", "panoform.backend", "batch", folder, "--out", out, "--ray", "auto"]
        command = [str(part) for part in (*command, *OPTIONS, *options)]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, encoding="utf-8")
        processes.append(process)
        return process

    yield start
    for process in processes:
        process.terminate()  # Ray then ends its own
        process.communicate(timeout=60)


def tree(process: subprocess.Popen[str]) -> list[psutil.Process]:
    try:
        return psutil.Process(process.pid).children(recursive=True)
    except psutil.NoSuchProcess:
        return []


def working(process: subprocess.Popen[str]) -> list[psutil.Process]:
    """Its workers that do a panorama: Ray shows the method in their titles."""
    return [child for child in tree(process) if told(child.cmdline)[:1] == ["ray::Actor.do"]]


def told(of: Callable[[], list[Any]]) -> list[Any]:
    """What a process tells, nothing where it has ended."""
    try:
        return of()
    except psutil.Error:
        return []


def rows(out: Path) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO((out / "summary.csv").read_text("utf-8"))))


def finish(process: subprocess.Popen[str]) -> tuple[int, list[str], str]:
    out, err = process.communicate(timeout=240)
    return process.returncode, out.splitlines(), err


def folders_of_ray(process: subprocess.Popen[str]) -> set[Path]:
    """The folder of the cluster's files, as its processes are told."""
    texts = [text for child in tree(process) for text in told(child.cmdline)]
    return {Path(text.split("=", 1)[1]) for text in texts if text.startswith(("--temp_dir=", "--temp-dir="))}


def kill_when_working(process: subprocess.Popen[str], times: int) -> None:
    """Kill a worker while it does a panorama, so many times."""
    killed: set[int] = set()
    while len(killed) < times:
        assert process.poll() is None
        if found := [one for one in working(process) if one.pid not in killed]:
            found[0].kill()
            killed.add(found[0].pid)
        time.sleep(0.02)


def test_without_ray(folder, tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "ray", None)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    for name in ("RAY_USAGE_STATS_ENABLED", "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "RAY_AUTH_MODE", "RAY_AUTH_TOKEN"):
        monkeypatch.setenv(name, "")  # restored afterwards
    assert main(["batch", str(folder), "--out", str(tmp_path / "out"), "--ray", "auto"]) == 1
    install = f'Install it: "{sys.executable}" -m pip install "ray>=2.60"'
    assert f"Ray isn't installed. {install}" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_workers_without_ray_are_refused(folder, tmp_path, capsys):
    assert main(["batch", str(folder), "--out", str(tmp_path), "--workers", "2"]) == 1
    assert "--workers is for --ray" in capsys.readouterr().err


class Cluster:
    """The part of the module ray that tells what a cluster has."""

    def __init__(self, *nodes: dict[str, float]) -> None:
        self._nodes = nodes

    def nodes(self):
        return [{"Alive": True, "Resources": node} for node in self._nodes] + [{"Alive": False, "Resources": {}}]

    def cluster_resources(self):
        return {"GPU": sum(node.get("GPU", 0.0) for node in self._nodes)}


GPUS, CPUS = ({"CPU": 16.0, "GPU": 2.0}, {"CPU": 8.0, "GPU": 1.0}), ({"CPU": 16.0}, {"CPU": 8.0})


@pytest.mark.parametrize(
    ("nodes", "device", "workers", "expected"),
    [
        (GPUS, "auto", None, (3, {"num_gpus": 1, "num_cpus": 0})),
        (GPUS, "cuda", 2, (2, {"num_gpus": 1, "num_cpus": 0})),
        (GPUS, "cpu", None, (1, {"num_gpus": 0, "num_cpus": 8})),
        (CPUS, "auto", 4, (4, {"num_gpus": 0, "num_cpus": 4})),
        (CPUS, "auto", 40, (40, {"num_gpus": 0, "num_cpus": 1})),
        (GPUS, "auto", 4, "3 GPUs for 4 workers"),
        (CPUS, "cuda", None, "knows of no GPU"),
        (GPUS, "cuda:1", None, "Use --device cuda"),
        (CPUS, "auto", 0, "Use 1 or more"),
    ],
)
def test_share_of_a_worker(nodes, device, workers, expected):
    if isinstance(expected, str):
        with pytest.raises(SettingError, match=expected):
            ray_cluster.share(Cluster(*nodes), device, workers)
    else:
        assert ray_cluster.share(Cluster(*nodes), device, workers) == expected


@pytest.mark.slow
def test_two_workers_one_of_them_killed_give_the_results_of_one_process(start, folder, tmp_path):
    """All that the cluster opens is on this computer only, and its files are this user's only."""
    process = start(folder, tmp_path / "ray", "--workers", "2")
    kill_when_working(process, 1)
    assert {stat.S_IMODE(folder.parent.stat().st_mode) for folder in folders_of_ray(process)} == {0o700}
    open_to = {
        connection.laddr.ip
        for child in tree(process)
        for connection in told(child.net_connections)
        if connection.status == psutil.CONN_LISTEN
    }
    code, lines, err = finish(process)
    assert code == 0, err
    assert sorted(line.split(": ")[1].split(" in ")[0] for line in lines) == ["distance"] * 2
    assert err.count("ended; it is done again.") == 1
    assert "2 written" in err
    assert open_to
    assert all(ipaddress.ip_address(ip.removeprefix("::ffff:")).is_loopback for ip in open_to)

    assert main(["batch", str(folder), "--out", str(tmp_path / "one"), *OPTIONS]) == 0
    for row, other in zip(rows(tmp_path / "ray"), rows(tmp_path / "one"), strict=True):
        assert {**row, "seconds": ""} == {**other, "seconds": ""}
        mine, theirs = ((tmp_path / name / row["folder"]) for name in ("ray", "one"))
        first, second = (
            oiio.ImageBuf(str(directory / "distance.exr")).get_pixels(oiio.FLOAT) for directory in (mine, theirs)
        )
        np.testing.assert_allclose(first, second, rtol=1e-4)  # the number of threads changes the last digits
        first, second = (json.loads((directory / "maps.json").read_text("utf-8")) for directory in (mine, theirs))
        assert {key for key in first if first[key] != second[key]} <= {
            "seconds",
            "files",
        }  # whose times are in their checksums


@pytest.mark.slow
def test_panorama_whose_worker_ends_twice_fails_and_the_rest_is_done(start, folder, tmp_path):
    process = start(folder, tmp_path)
    kill_when_working(process, 2)
    code, lines, _ = finish(process)
    assert code == 1
    assert lines[0].startswith("[1/2] b.png: failed: Its worker ended, twice.")
    assert lines[1].startswith("[2/2] ä.exr: distance in ")
    assert [row["status"] for row in rows(tmp_path)] == ["failed", "written"]


@pytest.mark.parametrize("address", ["127.0.0.1:9", "ray://127.0.0.1:9", "nowhere", "127.0.0.1:x"])
def test_cluster_that_does_not_answer(address):
    with pytest.raises(BackendError, match=f"No Ray cluster answers at {address}"), ray_cluster.cluster(address):
        pass
