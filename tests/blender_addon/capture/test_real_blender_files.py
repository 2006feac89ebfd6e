"""Panorama files as people have them, read by the extension in the Blender application."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import picture_cases
import pytest

pytestmark = pytest.mark.real_blender


def test_files_are_read_or_refused_as_the_list_says(blender, tmp_path: Path) -> None:
    cases = picture_cases.cases()
    files = []
    for index, case in enumerate(cases):
        folder = tmp_path / f"Höfe {index}"
        folder.mkdir()
        files.append([str(case.write(folder)), case.layer])
    (tmp_path / "list.json").write_text(json.dumps(files), "utf-8")
    script = Path(__file__).with_name("real_files.py")
    out = tmp_path / "out"
    blender(
        "--background", "--python-exit-code", "1", "--python", str(script), "--", str(tmp_path / "list.json"), str(out)
    )
    told = json.loads(out.with_suffix(".json").read_text("utf-8"))
    wrong = []
    with np.load(out.with_suffix(".npz")) as pixels:
        for index, (case, answer) in enumerate(zip(cases, told, strict=True)):
            if case.pixels is None:
                text = answer.get("refusal", "")
                right = re.search(case.refusal, f"{text} {answer.get('hint')}") and answer.get("hint")
            else:
                found = pixels.get(str(index))
                right = (
                    found is not None
                    and answer == {"encoding": case.encoding}
                    and np.allclose(found, case.pixels, rtol=1e-7, atol=max(case.tolerance, 1e-6))
                )
            if not right:
                wrong.append((case.what, answer))
    assert not wrong
