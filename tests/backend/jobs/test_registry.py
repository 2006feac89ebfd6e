"""The registry imports a job's module without collecting garbage, and collects it again afterwards."""

import gc
import sys

import pytest

from panoform.backend.jobs import registry
from panoform.shared.protocol.messages import JobRequest


class Question(JobRequest):
    pass


@pytest.mark.parametrize("fault", ["", "raise ImportError('torch is broken')"])
def test_garbage_is_collected_after_the_import(monkeypatch, tmp_path, fault):
    (tmp_path / "answering.py").write_text(f"import gc\nenabled = gc.isenabled()\nrun = lambda *_: enabled\n{fault}")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setitem(registry._MODULES, Question, "answering")
    monkeypatch.delitem(sys.modules, "answering", raising=False)
    if fault:
        with pytest.raises(ImportError, match="broken"):
            registry.run(Question(id="1"), None, None)
    else:
        assert registry.run(Question(id="1"), None, None) is False
    assert gc.isenabled()
