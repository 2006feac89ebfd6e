"""Use a Ray cluster (https://docs.ray.io): one that runs, or one on this computer that ends with the command."""

from __future__ import annotations

import contextlib
import os
import secrets
import socket
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ....shared.protocol.errors import BackendError, BackendMissingError, SettingError


@contextlib.contextmanager
def cluster(address: str) -> Iterator[Any]:
    """Yield the module ray, connected to the cluster at `address`.

    "auto" is the cluster at RAY_ADDRESS, or else one that is started on this computer for the command alone: it listens
    on 127.0.0.1 only, with a token of its own and without the dashboard, and keeps no files. Ray's statistics of use
    are off. Raise BackendMissingError without Ray, BackendError where the cluster does not answer.
    """
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    given = os.environ.get("RAY_ADDRESS", "") if address == "auto" else address
    with contextlib.ExitStack() as stack:
        options: dict[str, Any] = {"address": given}
        if given:
            _check_answers(given)  # Ray itself tries for minutes
        else:
            # Ray's name for the option by which all of it listens on 127.0.0.1 only, on Linux too; read when imported.
            os.environ["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] = "0"
            os.environ |= {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)}
            # Its sockets allow short paths only, and the usual folder is long on macOS.
            parent = "/tmp" if os.name == "posix" else None
            folder = tempfile.TemporaryDirectory(prefix="ray-", dir=parent, ignore_cleanup_errors=True)
            # Ray lets everyone write to its folder, so that is one within ours, which others can't enter.
            inside = Path(stack.enter_context(folder)) / "r"
            options = {"address": "local", "include_dashboard": False, "_temp_dir": str(inside)}
        try:
            import ray  # pyright: ignore[reportMissingImports]
        except ModuleNotFoundError as error:
            if error.name != "ray":
                raise
            install = f'"{sys.executable}" -m pip install "ray>=2.60"'
            raise BackendMissingError("Ray isn't installed.", f"Install it: {install}") from error
        # It writes about workers that end to stdout, which is for our lines.
        stack.enter_context(contextlib.redirect_stdout(stack.enter_context(Path(os.devnull).open("w"))))
        stack.callback(ray.shutdown)
        try:
            ray.init(**options, log_to_driver=False, logging_level="ERROR")
        except (ConnectionError, RuntimeError, ValueError, ray.exceptions.RayError) as error:
            reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
            where = f"the Ray cluster at {given}" if given else "Ray on this computer"
            raise BackendError(
                f"Can't use {where}: {reason}", "See Ray's documentation, or leave out --ray."
            ) from error
        yield ray


def _check_answers(address: str) -> None:
    """Raise BackendError where nothing answers at "HOST:PORT" or "ray://HOST:PORT"."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=10).close()
    except (OSError, ValueError) as error:
        raise BackendError(
            f"No Ray cluster answers at {address}: {error}.", "Give HOST:PORT, as `ray start --head` prints it."
        ) from error


def share(ray: Any, device: str, workers: int | None) -> tuple[int, dict[str, Any]]:
    """Return the number of workers, and the options of their actors: what each has of the cluster.

    Each has a GPU, where Ray knows of any and `device` allows it; else its part of a computer's cores. `workers`: None
    for one for each GPU, or one. Raise SettingError.
    """
    if ":" in device:
        raise SettingError(f"Ray chooses the GPU, not --device {device}.", f"Use --device {device.split(':')[0]}.")
    if workers is not None and workers < 1:
        raise SettingError(f"The number of workers is {workers}.", "Use 1 or more.")
    gpus = int(ray.cluster_resources().get("GPU", 0))
    if device == "cuda" and not gpus:
        raise SettingError("Ray knows of no GPU.", "Use --device cpu, or start Ray with --num-gpus.")
    if gpus and device in ("auto", "cuda"):
        if workers is not None and workers > gpus:
            raise SettingError(f"There are {gpus} GPUs for {workers} workers.", "Use fewer --workers, or --device cpu.")
        return workers or gpus, {"num_gpus": 1, "num_cpus": 0}
    nodes = [node["Resources"].get("CPU", 1) for node in ray.nodes() if node["Alive"]]
    count = workers or 1
    each = min(nodes) // -(-count // len(nodes))
    return count, {"num_gpus": 0, "num_cpus": max(int(each), 1)}
