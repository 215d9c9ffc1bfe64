"""How the programs end when something outside of them does."""

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from models.errors import run_command

ENDLESS = """
from models.errors import run_command

def main():
    while True:
        print("an event")

run_command(main)
"""


@pytest.fixture(autouse=True)
def _signals():
    before = signal.getsignal(signal.SIGTERM)
    yield
    signal.signal(signal.SIGTERM, before)


def test_a_reader_that_has_enough_ends_a_program_quietly():
    root = Path(__file__).parents[1]
    program = subprocess.Popen(
        [sys.executable, "-c", ENDLESS], stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=root
    )
    assert program.stdout.readline() == b"an event\n"
    program.stdout.close()
    assert program.stderr.read() == b""
    assert program.wait() == 141


def test_a_reading_process_that_is_killed_is_one_line(capsys):
    def main():
        raise RuntimeError("DataLoader worker (pid 7) is killed by signal: Killed. ")

    with pytest.raises(SystemExit) as stop:
        run_command(main)
    assert stop.value.code == 1
    message = capsys.readouterr().err
    assert message.startswith("error: a process that reads clips was killed")
    assert message.count("\n") == 1


@pytest.mark.parametrize(
    ("resumes", "advice"),
    [(True, "run the same command again to go on where it stopped"), (False, "again")],
)
def test_an_interrupted_program_says_whether_it_goes_on(resumes, advice, capsys):
    def main():
        raise KeyboardInterrupt

    with pytest.raises(SystemExit) as stop:
        run_command(main, resumes)
    assert stop.value.code == 130
    assert capsys.readouterr().err.endswith(f"{advice}\n")


def test_another_runtime_error_keeps_its_traceback():
    def main():
        raise RuntimeError("a defect")

    with pytest.raises(RuntimeError, match="a defect"):
        run_command(main)
