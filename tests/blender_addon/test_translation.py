"""Texts of the add-on in Blender's language. The bpy module has no languages: a catalogue stands in for one here, and
test_real_blender_models.py registers one in the application."""

from __future__ import annotations

import ast
import re
from pathlib import Path
from types import SimpleNamespace

import bpy
import pytest
from recorded_layout import Layout

from panoform import blender_addon
from panoform.blender_addon import translation
from panoform.blender_addon.jobs.job import Job
from panoform.blender_addon.jobs.manager import Jobs
from panoform.blender_addon.jobs.specs import counted
from panoform.blender_addon.ui import panel_parts

ADDON = Path(blender_addon.__file__).parent
GERMAN = {
    "Last run: {time}": "Letzter Lauf: {time}",
    "Distance": "Abstand",
    "{time} left": "noch {time}",
    "Cancelling": "Wird abgebrochen",
    "{count} maps": "{count} Bilder",
    "Choose a picture.": "Wähle ein Bild.",
    "Saved to {path}.": "Gespeichert als {path}.",
}


@pytest.fixture
def german(monkeypatch) -> None:
    for name in ("pgettext_iface", "pgettext_rpt"):
        monkeypatch.setattr(translation, name, lambda text: GERMAN.get(text, text))


def test_without_a_language_texts_stay() -> None:
    assert translation.tr("{seconds:.0f} s", seconds=2.6) == "3 s"
    assert translation.tr("100 % {") == "100 % {", "without values, braces are no fields"


def test_labels_and_progress_are_translated(addon: Jobs, german) -> None:
    layout = Layout()
    addon.seconds["cost"] = 4.2
    panel_parts.draw_run(layout, None, "cost")
    addon.seconds["cost"] = 250
    panel_parts.draw_run(layout, None, "cost")
    panel_parts.draw_run(layout, None, "another cost")
    panel_parts.draw_text(layout, "Choose a picture.", 80)
    assert layout.texts == ["Letzter Lauf: 4 s", "Letzter Lauf: 4 min", "", "Wähle ein Bild."]
    job = Job(SimpleNamespace(), id="x", stage="Distance", step=3, of=28, seconds_left=41)
    assert job.text == "Abstand 3/28 · noch 0:41"
    job.cancelling = True
    assert job.text == "Wird abgebrochen"
    assert (counted(2, "map"), counted(1, "map")) == ("2 Bilder", "1 map")


def test_reports_are_translated(addon: Jobs, german, monkeypatch, tmp_path: Path, capfd) -> None:
    monkeypatch.setenv("HF_TOKEN_PATH", str(tmp_path / "token"))
    assert bpy.ops.panoform.save_hub_token(token="hf_abc") == {"FINISHED"}
    assert f"Gespeichert als {tmp_path / 'token'}." in capfd.readouterr().out


#: Calls that show a text: function or method → the argument by position, or its keyword.
_SHOWN = {"label": "text", "report": 1, "draw_text": 1, "progress": "text", "poll_message_set": 0}
_WORD = re.compile(r"[A-Za-z]{3,}")


def untranslated(tree: ast.AST) -> list[int]:
    """Return the lines that show an f-string with words in it, which Blender can't look up."""
    found = []
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call):
            continue
        name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
        place = _SHOWN.get(name)
        if isinstance(place, int):
            shown = node.args[place] if len(node.args) > place else None
        else:
            shown = next((keyword.value for keyword in node.keywords if keyword.arg == place), None)
        if isinstance(shown, ast.JoinedStr):
            words = [part.value for part in shown.values if isinstance(part, ast.Constant)]
            found += [node.lineno] * bool(_WORD.search(" ".join(words)))
    return found


def test_untranslated_texts_are_detected() -> None:
    assert untranslated(ast.parse('row.label(text=f"{count} maps")\nself.report({"INFO"}, f"Wrote {path}")')) == [1, 2]
    assert not untranslated(ast.parse('row.label(text=f"{width} × {height}")\nrow.label(text="Constant")'))


@pytest.mark.parametrize("path", sorted(ADDON.rglob("*.py")), ids=lambda path: path.relative_to(ADDON).as_posix())
def test_texts_with_values_go_through_the_translation(path: Path) -> None:
    assert not untranslated(ast.parse(path.read_text("utf-8")))
