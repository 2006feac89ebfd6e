"""Which of the user's settings of pip and uv a set-up keeps."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from panoform.blender_addon.backend import pip_settings


def listed(variables: dict[str, str]) -> str:
    """Return what the real pip lists as its settings."""
    command = [sys.executable, "-I", "-X", "utf8", "-m", "pip", "config", "list"]
    rest = {name: value for name, value in os.environ.items() if not name.startswith("PIP_")}
    return subprocess.run(command, env=rest | variables, capture_output=True, check=True).stdout.decode()


def test_only_how_packages_are_reached_is_kept(tmp_path: Path) -> None:
    file = tmp_path / "pip.conf"
    file.write_text(
        "[global]\nindex-url = https://a.example\nproxy = http://proxy.example\nprefix = /elsewhere\n"
        "extra-index-url =\n    https://b.example\n    https://it's.example\n"
        "[install]\nindex-url = https://c.example\nuser = true\nno-deps = true\n[download]\nindex-url = https://d.example\n"
    )
    variables = {"PIP_CONFIG_FILE": str(file), "PIP_PROXY": "http://other.example", "PIP_ROOT": "/elsewhere"}
    others = {"HTTPS_PROXY": "p", "UV_SYSTEM_PYTHON": "1", "UV_INDEX_OURS_PASSWORD": "x", "UV_OVERRIDE": "file"}
    found = pip_settings.environment(listed(variables), variables | others)
    assert found.pop("PIP_EXTRA_INDEX_URL").split() == ["https://b.example", "https://it's.example"]
    expected = {
        "PIP_INDEX_URL": "https://c.example",
        "PIP_PROXY": "http://other.example",
        "PIP_CONFIG_FILE": os.devnull,
        "HTTPS_PROXY": "p",
        "UV_INDEX_OURS_PASSWORD": "x",
    }
    empty = tmp_path / "empty.conf"
    empty.touch()  # where there is such a file, pip leaves out the user's own
    of_this_computer = pip_settings.environment(listed({"PIP_CONFIG_FILE": str(empty)}), {})
    of_this_computer.pop("PIP_EXTRA_INDEX_URL", None)
    assert found == of_this_computer | expected
