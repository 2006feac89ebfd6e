"""A job type for Flamenco, Blender's render farm: a JavaScript file for the folder `scripts` of its manager.

Source: https://flamenco.blender.org/usage/job-types/ and the job types that Flamenco brings.
"""

from __future__ import annotations

from pathlib import Path

import msgspec

from .farm_job import MARK, FarmJob

_JOB_TYPE = """\
// @MARK@ Put this file into the folder "scripts" beside flamenco-manager.
const COMMAND = @COMMAND@;
const OPTIONS = @OPTIONS@;

const JOB_TYPE = {
    label: "Panoform Batch",
    settings: [
        { key: "panoramas", type: "string", subtype: "dir_path", required: true, default: @PANORAMAS@,
          description: "Folder of panoramas" },
        { key: "results", type: "string", subtype: "dir_path", required: true, default: @RESULTS@,
          description: "Receives a result folder for each panorama, and a summary" },
        { key: "tasks", type: "int32", required: true, default: @TASKS@, propargs: { min: 1, max: 999999 },
          description: "Number of tasks that share the panoramas" },
    ],
};

function compileJob(job) {
    const settings = job.settings;
    const summary = authorTask("summary", settings, []);
    for (let part = 1; part <= settings.tasks; part++) {
        const task = authorTask("part-" + part, settings, ["--part", part + "/" + settings.tasks]);
        job.addTask(task);
        summary.addDependency(task);
    }
    job.addTask(summary);
}

function authorTask(name, settings, more) {
    const task = author.Task(name, @TYPE@);
    const first = COMMAND.slice(1).concat([settings.panoramas, "--out", settings.results]);
    task.addCommand(author.Command("exec", { exe: COMMAND[0], args: first.concat(OPTIONS, more) }));
    return task;
}
"""
#: Flamenco's variable for the path of Blender on each computer.
_BLENDER = "{blender}"


def job_type(job: FarmJob, path: Path) -> str:
    """Return the content of the file, the same for every `path`.

    The tasks are of Flamenco's type "blender" where they run Blender, else "misc".
    """
    command = job.command
    is_blender = command[0] == "blender"
    values = {
        "@COMMAND@": [_BLENDER, *command[1:]] if is_blender else list(command),
        "@OPTIONS@": list(job.options),
        "@PANORAMAS@": str(job.panoramas),
        "@RESULTS@": str(job.results),
        "@TASKS@": job.tasks,
        "@TYPE@": "blender" if is_blender else "misc",
    }
    text = _JOB_TYPE.replace("@MARK@", MARK)
    for name, value in values.items():
        text = text.replace(name, msgspec.json.encode(value).decode())  # JSON is JavaScript
    return text
