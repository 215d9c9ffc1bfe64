"""How the programs end when something outside of them does."""

import subprocess
import sys
from pathlib import Path

ENDLESS = """
from models.errors import run_command

def main():
    while True:
        print("an event")

run_command(main)
"""


def test_a_reader_that_has_enough_ends_a_program_quietly():
    root = Path(__file__).parents[1]
    program = subprocess.Popen(
        [sys.executable, "-c", ENDLESS], stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=root
    )
    assert program.stdout.readline() == b"an event\n"
    program.stdout.close()
    assert program.stderr.read() == b""
    assert program.wait() == 141
