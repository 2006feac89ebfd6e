"""An Open Job Description template.

Source: the specification of job templates, version 2023-09
(https://github.com/OpenJobDescription/openjd-specifications/wiki/2023-09-Template-Schemas).
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec

from ..protocol.errors import SettingError
from .farm_job import MARK, FarmJob

_MAX_NAME = 128


def template(job: FarmJob, path: Path) -> str:
    """Return the template for the file `path` as JSON.

    Folders below the template's own are its parameters' defaults; others are given when the job is submitted, as the
    specification's tools take no other default. Raise SettingError where an option would be read as an expression.
    """
    for text in (*job.command, *job.options, str(job.panoramas), str(job.results)):
        if "{{" in text:
            raise SettingError(f"{text} has two braces, which job templates can't hold.", "Use another name.")
    perceive = _step(job, "Perceive", ["--part", "{{Task.Param.Part}}/{{Param.Tasks}}"])
    perceive["parameterSpace"] = {
        "taskParameterDefinitions": [{"name": "Part", "type": "INT", "range": "1-{{Param.Tasks}}"}]
    }
    summary = _step(job, "Summary", [])
    summary["dependencies"] = [{"dependsOn": "Perceive"}]
    content = {
        "specificationVersion": "jobtemplate-2023-09",
        "name": f"Panoform {job.panoramas.name}"[:_MAX_NAME],
        "description": MARK,
        "parameterDefinitions": [
            _folder("Panoramas", job.panoramas, "IN", path),
            _folder("Results", job.results, "OUT", path),
            {"name": "Tasks", "type": "INT", "default": job.tasks, "minValue": 1},
        ],
        "steps": [perceive, summary],
    }
    return msgspec.json.format(msgspec.json.encode(content), indent=2).decode() + "\n"


def _folder(name: str, folder: Path, flow: str, template: Path) -> dict[str, str]:
    inside = {"default": folder.relative_to(template.parent).as_posix()} if is_below(folder, template) else {}
    return {"name": name, "type": "PATH", "objectType": "DIRECTORY", "dataFlow": flow, **inside}


def is_below(folder: Path, template: Path) -> bool:
    """Return whether a folder is in that of the template, so that it is a default."""
    return folder.is_relative_to(template.parent)


def _step(job: FarmJob, name: str, more: Sequence[str]) -> dict[str, Any]:
    program, *first = job.command
    arguments = [*first, "{{Param.Panoramas}}", "--out", "{{Param.Results}}", *job.options, *more]
    return {"name": name, "script": {"actions": {"onRun": {"command": program, "args": arguments}}}}
