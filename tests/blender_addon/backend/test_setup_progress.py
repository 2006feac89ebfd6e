"""Progress of the set-up, from the output of pip and uv."""

from pathlib import Path

import pytest

from panoform.blender_addon.backend import setup_progress
from panoform.blender_addon.backend.setup_progress import Needs, SetupProgress


def test_progress_is_one_fraction_of_the_whole(tmp_path: Path, monkeypatch) -> None:
    free = [100e9]
    monkeypatch.setattr(setup_progress, "free_space", lambda _folder: free[0])
    progress = SetupProgress(tmp_path, Needs(download=1e9, disk=4e9))
    torch = "Downloading torch-2.13.0 (500.0 MB) · 0.0 GB of about 1.0 GB"
    for line, text, fraction in (
        ("Collecting torch>=2.6 (from panoform==0.1.0)\n", "Looking for torch", 0),
        ("  Downloading torch-2.13.0-cp311-none-win_amd64.whl (500.0 MB)\n", torch, 0),
        ("Progress 250000000 of 500000000\n", torch, 0.7 * 0.25),
        ("Progress 500000000 of 500000000\n", torch, 0.7 * 0.5),
        ("Installing collected packages: pip\n", "Installing 1 package", 0.7 * 0.5),
        ("Collecting scipy\n", "Looking for scipy", 0.7 * 0.5),
        ("Using cached scipy-1-cp311.whl (300 MB)\n",
         "Downloading scipy-1 (300 MB) · 0.8 GB of about 1.0 GB", 0.7 * 0.8),
    ):  # fmt: skip
        progress.parse(line)
        assert progress.text == text
        assert progress.fraction == pytest.approx(fraction)
    progress.is_last_step = True
    progress.parse("Installing collected packages: mpmath, sympy, torch\n")
    assert progress.text == "Installing 3 packages"
    shares = []
    for free[0] in (100e9, 98e9, 99e9, 96e9, 90e9):  # what other programs write or free counts, but never backwards
        shares.append(progress.fraction)
    assert shares == pytest.approx([0.7, 0.85, 0.85, 0.997, 0.997])


def test_progress_follows_the_output_of_uv(tmp_path: Path) -> None:
    progress = SetupProgress(tmp_path, Needs(200e6, 1e9))
    shown = []
    for line in (
        "Resolved 9 packages in 729ms\n",
        "Downloading torch (175.2MiB)\n",
        "Downloading sympy (980.0KiB)\n",
        " Downloaded sympy\n",
        " Downloaded torch\n",
        "Prepared 9 packages in 855ms\n",
    ):
        progress.parse(line)
        shown.append((progress.text.partition(" · ")[0], progress.fraction))
    texts, fractions = zip(*shown, strict=True)
    assert texts[1:3] == ("Downloading torch (175.2 MiB)", "Downloading sympy (980.0 KiB)")
    sympy = 0.7 * 980 * 1024 / 200e6
    torch = 0.7 * 175.2 * 1024**2 / 200e6
    assert fractions == pytest.approx((0, 0, 0, sympy, sympy + torch, sympy + torch))


def test_minutes_are_those_of_the_download_and_the_installation() -> None:
    measured = Needs(download=3.1e9, disk=7.0e9)  # set up from a folder in 286 s, two processors
    assert measured.minutes(offline=True) == 5
    assert measured.minutes(offline=False) == 14  # 4.9, and 8.3 for 3.1 GB at 50 Mbit/s
