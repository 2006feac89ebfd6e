"""Logs are readable by their owner only, and limited in size."""

import os
import stat
import subprocess
import sys

import pytest

from panoform.backend.server import log_limit
from panoform.blender_addon.backend import log_file


@pytest.mark.skipif(os.name != "posix", reason="permissions of POSIX")
def test_logs_are_readable_by_their_owner_only(tmp_path):
    old = tmp_path / "old.log"
    old.write_text("an earlier version's")
    old.chmod(0o644)
    for path in (old, tmp_path / "new.log"):
        mask = os.umask(0)
        try:
            with log_file.create(path) as log:
                log.write(b"a")
        finally:
            os.umask(mask)
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        assert path.read_bytes() == b"a"


@pytest.mark.skipif(os.name != "posix", reason="links of POSIX")
def test_links_are_not_followed(tmp_path):
    (tmp_path / "user.txt").write_text("the user's")
    (tmp_path / "a.log").symlink_to(tmp_path / "user.txt")
    with pytest.raises(OSError, match=r"a\.log"):
        log_file.create(tmp_path / "a.log")
    assert (tmp_path / "user.txt").read_text() == "the user's"


def test_text_beyond_the_limit_is_left_out(tmp_path, monkeypatch):
    monkeypatch.setattr(log_file, "MAX_BYTES", 100)
    with log_file.BoundedLog(tmp_path / "setup.log") as log:
        for index in range(1000):
            log.write(f"ligne numéro {index}\n")
            log.flush()
    text = (tmp_path / "setup.log").read_text("utf-8")
    assert text.startswith("ligne numéro 0\n")
    assert text.endswith("… the rest is not kept.\n")
    assert len(text) < 200


@pytest.mark.skipif(os.name != "posix", reason="keeps nothing on Windows")
def test_a_backend_keeps_the_end_of_its_log(tmp_path):
    """Also what a native library writes."""
    path = tmp_path / "backend.log"
    script = (
        "import os, sys; from panoform.backend.server import log_limit\n"
        "log_limit.MAX_BYTES, log_limit.KEPT_BYTES = 10000, 1000\n"
        "for index in range(3000):\n"
        "    os.write(2, b'line %d\\n' % index); log_limit.limit()"
    )
    with log_file.create(path) as log:
        subprocess.run([sys.executable, "-c", script], stderr=log, check=True)
    lines = path.read_text().splitlines()
    assert path.stat().st_size < 10_100
    assert lines[0] == "(The beginning of this log is not kept.)"
    assert lines[-1] == "line 2999"
    assert [int(line.split()[1]) for line in lines[1:]] == list(range(3001 - len(lines), 3000))


def test_what_is_no_file_is_left_alone():
    reading, writing = os.pipe()
    log_limit.limit(writing)
    os.close(reading)
    os.close(writing)
    log_limit.limit(writing)
