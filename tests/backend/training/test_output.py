"""The commands of training replace no file unless they are told to."""

import pytest

from panoform.backend.training import __main__ as training
from panoform.backend.training import output
from panoform.backend.training.multiview import __main__ as multiview
from panoform.shared.protocol.errors import OutputError


@pytest.mark.parametrize("command", ["export", "look", "mean-maps"])
def test_existing_files_are_refused_at_once(tmp_path, command):
    (tmp_path / "out").write_text("mine")
    with pytest.raises(SystemExit, match="not a result of Panoform: out"):
        training.main(["--data", str(tmp_path), command, "--out", str(tmp_path / "out")])
    assert (tmp_path / "out").read_text() == "mine"


def test_existing_files_of_the_other_training_are_refused_at_once(tmp_path):
    (tmp_path / "unet").mkdir()
    (tmp_path / "unet" / "config.json").write_text("mine")
    with pytest.raises(SystemExit, match=r"not a result of Panoform: config\.json"):
        multiview.main(["--data", str(tmp_path), "export", "--out", str(tmp_path)])
    sheet = tmp_path / "unet" / "config.json"
    with pytest.raises(SystemExit, match=r"not a result of Panoform: config\.json"):
        multiview.main(["--data", str(tmp_path), "evaluate", "--out", str(sheet)])
    assert sheet.read_text() == "mine"


def test_file_that_appears_meanwhile_is_kept(tmp_path):
    def write():
        with output.file(tmp_path / "a", overwrite=False) as draft:
            draft.write_text("new")
            (tmp_path / "a").write_text("mine")

    with pytest.raises(OutputError):
        write()
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [("a", "mine")]
