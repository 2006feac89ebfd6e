"""Who may import whom, read from the sources: blender_addon → shared ← backend, and torch only below the jobs."""

import ast
import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FOLDERS = ("shared", "backend", "blender_addon")
#: Heavy, and not in Blender's Python.
TORCH = {"torch", "diffusers", "transformers", "peft", "accelerate", "safetensors", "torchvision", "gguf"}
#: Only inside Blender; rendering the training data needs it too.
BPY = {"bpy", "bmesh", "mathutils", "gpu", "gpu_extras", "bl_ext", "bpy_extras", "_cycles", "cycles"}
#: What the extension brings, beside Python and Blender's own numpy.
ADDON_MAY = {"numpy", "zmq", "msgspec", *BPY}
NO_BPY = {"blender_addon/backend/client.py", "blender_addon/backend/process.py"}


@cache  # read by the first test, not when tests are collected
def modules() -> dict[str, ast.Module]:
    """Sources by their path from the root, "backend/server/server.py"."""
    return {
        file.relative_to(ROOT).as_posix(): ast.parse(file.read_text("utf-8"))
        for folder in FOLDERS
        for file in sorted((ROOT / folder).rglob("*.py"))
    }


@cache
def imports(path: str, tree: ast.AST | None = None) -> set[str]:
    """What a module imports, wherever in it: "torch.nn", and Panoform's own as paths, "shared/protocol/wire.py"."""
    found = set()
    for node in ast.walk(tree or modules()[path]):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            found.add(node.module)
        elif isinstance(node, ast.ImportFrom):
            base = Path(path).parents[node.level - 1] / (node.module or "").replace(".", "/")
            for alias in node.names:
                inside = (base / alias.name).as_posix()
                known = (f"{inside}.py", f"{inside}/__init__.py", f"{base.as_posix()}.py")
                found.add(next((name for name in known if name in modules()), f"{base.as_posix()}/__init__.py"))
    return found


@cache
def top_level(path: str) -> set[str]:
    """What importing a module imports at once: not inside functions, nor for type checkers alone."""
    at_once = [
        node
        for node in modules()[path].body
        if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.If)
        or (isinstance(node, ast.If) and "TYPE_CHECKING" not in ast.dump(node.test))
    ]
    return imports(path, ast.Module(at_once, []))


def reached(path: str, found_in: Callable[[str], set[str]] = top_level) -> set[str]:
    """All that importing a module imports, its own imports' included."""
    seen, todo = set(), [path]
    while todo:
        for name in found_in(todo.pop()) - seen:
            seen.add(name)
            if name in modules():
                todo.append(name)
    return seen


def packages(names: set[str]) -> set[str]:
    """The packages outside Panoform and Python's library."""
    return {name.split(".")[0] for name in names if name not in modules() and not name.endswith(".py")} - set(
        sys.stdlib_module_names
    )


def test_there_is_something_to_read():
    assert "numpy" in packages(imports("shared/imaging/sphere.py"))
    assert {"shared/protocol/wire.py", "shared/protocol/connection.py", "backend/server/worker.py"} <= imports(
        "backend/server/server.py"
    )
    assert "shared/protocol/errors.py" in reached("backend/server/server.py")


def within(folder: str) -> list[str]:
    """Return the paths of the modules in a folder, "shared/"."""
    return [path for path in modules() if path.startswith(folder)]


def test_arrows():
    """Inside a folder and from both to `shared`: nothing else, and no import by Panoform's own full name."""
    wrong = {}
    for path in modules():
        ours = {name.split("/")[0] for name in imports(path) if name in modules() or name.endswith(".py")}
        wrong[path] = ours - {path.split("/")[0], "shared"} | packages(imports(path)) & {"panoform"}
    assert not {path: names for path, names in wrong.items() if names}


@pytest.mark.parametrize(("folder", "allowed"), [("shared/", {"numpy", "msgspec"}), ("blender_addon/", ADDON_MAY)])
def test_what_is_in_blender_needs_only_what_the_extension_brings(folder, allowed):
    wrong = {path: packages(imports(path)) - allowed for path in within(folder)}
    assert not {path: names for path, names in wrong.items() if names}


def test_bpy_only_in_blender():
    paths = NO_BPY.union(within("shared/"), within("backend/")).difference(within("backend/training/"))
    wrong = {path: packages(imports(path) | reached(path)) & BPY for path in paths}
    assert not {path: names for path, names in wrong.items() if names}


@pytest.mark.parametrize("path", ["backend/server/server.py", "backend/cli/main.py", "backend/__main__.py"])
def test_torch_comes_with_the_first_job_only(path):
    """What is up before the first job never loads torch with it."""
    assert not packages(reached(path)) & TORCH


#: The folders of the backend that are imported by the first job that needs them, and what they are made of.
BELOW_JOBS = {
    "evaluation",
    "generation",
    "geometry",
    "inventory",
    "lighting",
    "models",
    "perception",
    "pipelines",
    "texturing",
    "training",
}


def test_torch_is_imported_below_the_jobs_only():
    with_torch = [path for path in modules() if packages(imports(path)) & TORCH]
    assert with_torch
    below = tuple(f"backend/{folder}/" for folder in BELOW_JOBS)
    assert not [path for path in with_torch if not path.startswith(below)]


def test_nothing_below_a_job_knows_who_asked_for_it():
    """Server and command line stand above; kinds of job don't know each other."""
    wrong = {}
    for path in within("backend/"):
        folder = path.split("/")[1]
        above = {"server", "cli"} if folder in BELOW_JOBS - {"training"} else set()
        kinds = {"perception", "generation"} - {folder} if folder in {"perception", "generation"} else set()
        forbidden = tuple(f"backend/{name}/" for name in above | kinds)
        wrong[path] = {name for name in imports(path) if name.startswith(forbidden)}
        if above:
            wrong[path] |= imports(path) & {"backend/jobs/registry.py"}
    assert not {path: names for path, names in wrong.items() if names}


@pytest.mark.parametrize(
    "path",
    ["backend/server/server.py", "backend/server/worker.py", "shared/protocol/wire.py", "shared/protocol/messages.py",
     "blender_addon/backend/client.py", "blender_addon/backend/process.py", "blender_addon/backend/session.py"],
)  # fmt: skip
def test_transport_knows_no_kind_of_job(path):
    kinds = {name for name in imports(path) if name.startswith("shared/jobs/") and not name.endswith("__init__.py")}
    assert not kinds
