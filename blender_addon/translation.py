"""Texts in Blender's language.

Blender itself translates what is constant: names and descriptions of operators, panels and properties, texts of labels
and buttons, poll messages, reports. Texts with values in them go through `tr` and `tr_report`, with the values named:

    tr("Last run: {time}", time=time)

Messages of the backend stay in English. A language is an entry of TRANSLATIONS; its texts are those of the code, in the
context "Operator" for names of operators, and "*" for all others.
"""

from __future__ import annotations

import bpy
from bpy.app.translations import pgettext_iface, pgettext_rpt

#: Language ("de_DE") → (context, text) → translation.
TRANSLATIONS: dict[str, dict[tuple[str, str], str]] = {}


def tr(text: str, **values: object) -> str:
    """Return an interface text in Blender's language, with `values` in its fields."""
    translated: str = pgettext_iface(text)
    return translated.format(**values) if values else translated


def tr_report(text: str, **values: object) -> str:
    """Return the text of a report in Blender's language, with `values` in its fields."""
    translated: str = pgettext_rpt(text)
    return translated.format(**values) if values else translated


def register() -> None:
    bpy.app.translations.register(__package__, TRANSLATIONS)


def unregister() -> None:
    bpy.app.translations.unregister(__package__)
