"""Ctrl+C at any time ends the command line with 130 and a line."""

from __future__ import annotations

import signal
import subprocess
import sys

import pytest

from panoform.backend import interrupts

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="Windows sends no SIGINT to one process.")

#: Prints a line where Ctrl+C is to come, and waits; then what happened to it.
START = """
import signal, sys, time
from panoform.backend import interrupts
signal.signal(signal.SIGINT, signal.default_int_handler)  # also where the tests run with it ignored
interrupts.stop_at_once()
def here():
    print("here", flush=True)
    time.sleep(60)
"""
PHASES = {
    "imports": ("here()", 1),
    "a second time, while files are put in order": (
        "from panoform.backend.cli import main as cli, doctor\n"
        "class Command:\n"
        "    @staticmethod\n"
        "    def run(options):\n"
        "        try: here()\n"
        "        finally: here()\n"
        "doctor.run = Command.run\n"
        "sys.exit(cli.main(['doctor']))",
        2,
    ),
    "at the end": (
        "import atexit\natexit.register(here)\n"
        "from panoform.backend.cli import main as cli, doctor\n"
        "doctor.run = lambda options: 0\n"
        "sys.exit(cli.main(['doctor']))",
        1,
    ),
    "in a library that makes another error of it": (
        "from panoform.backend.cli import main as cli, doctor\n"
        "def run(options):\n"
        "    try: here()\n"
        "    except KeyboardInterrupt: raise ImportError('initialization failed') from None\n"
        "doctor.run = run\n"
        "sys.exit(cli.main(['doctor']))",
        1,
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize("phase", PHASES)
def test_each_interruption_is_told_in_a_line(phase):
    code, times = PHASES[phase]
    with subprocess.Popen(
        [sys.executable, "-c", START + code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        for _ in range(times):
            assert process.stdout is not None
            assert process.stdout.readline() == "here\n"
            process.send_signal(signal.SIGINT)
        _, told = process.communicate(timeout=60)
    assert (process.returncode, told) == (130, "panoform: stopped\n")


def test_what_calls_a_command_keeps_its_handler():
    former = signal.getsignal(signal.SIGINT)
    try:
        signal.signal(signal.SIGINT, signal.default_int_handler)
        with pytest.raises(KeyboardInterrupt), interrupts.stopping_in_order():
            signal.raise_signal(signal.SIGINT)
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        with interrupts.stopping_in_order():
            signal.raise_signal(signal.SIGINT)
        interrupts.stop_at_once()
        assert signal.getsignal(signal.SIGINT) == signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, former)
