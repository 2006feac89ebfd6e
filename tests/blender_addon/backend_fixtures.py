"""The fixtures of tests/backend/conftest.py, for tests of the add-on that need the tiny checkpoints."""

import importlib.util
from pathlib import Path
from types import ModuleType


def load() -> ModuleType:
    """Return tests/backend/conftest.py as a module: pytest doesn't import it for tests in other folders."""
    path = Path(__file__).resolve().parents[1] / "backend" / "conftest.py"
    spec = importlib.util.spec_from_file_location("backend_fixtures_conftest", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
