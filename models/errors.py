"""How the programs here report trouble: one line on stderr and an exit status."""

from __future__ import annotations

import argparse
import os
import signal
import sys
from collections.abc import Callable
from typing import NoReturn


class UserError(Exception):
    """Something the user can put right; it says what was expected, what came and what to do."""


class Terminated(BaseException):
    """SIGTERM came, as it does before a machine is taken away; what is worth it has been saved."""


class CommandParser(argparse.ArgumentParser):
    """An argument parser whose complaints are one line: exit status 2, no usage text."""

    def error(self, message: str) -> NoReturn:
        _exit(f"error: {message} (see {self.prog} --help)", 2)


def add_switch(
    add: Callable[..., argparse.Action], name: str, text: str, default: bool = False
) -> None:
    """`--NAME` and `--no-NAME`, by the `add_argument` of a parser or of a group."""
    # A default of None here: argparse would write it behind the help.
    switch = add(f"--{name}", action=argparse.BooleanOptionalAction, default=None, help=text)
    switch.default = default


def run_command(main: Callable[[], None], resumes: bool = True) -> None:
    """Run a program's `main` and turn its failures into one line and an exit status.

    A `UserError` or an `OSError` (disk full, no permission) exits with 1, an interrupt with 130,
    SIGTERM with 143. Any other exception is a defect of the program and keeps its traceback.
    `resumes` says whether the program goes on where it stopped when it is run again.
    """
    signal.signal(signal.SIGTERM, _terminate)
    again = "run the same command again" + (" to go on where it stopped" if resumes else "")
    try:
        main()
    except UserError as error:
        _exit(f"error: {error}", 1)
    except BrokenPipeError:
        # Whoever reads the output has enough, as `head` does. Nothing is left to be flushed there.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(128 + signal.SIGPIPE)
    except OSError as error:
        _exit(f"error: {_describe(error)}", 1)
    except RuntimeError as error:
        if not _is_lost_worker(error):
            raise
        _exit(
            "error: a process that reads clips was killed, perhaps for want of memory: run the "
            "same command again, with fewer --workers or a smaller --batch-size",
            1,
        )
    except KeyboardInterrupt:
        _exit(f"interrupted: {again}", 130)
    except Terminated:
        _exit(f"terminated: {again}", 128 + signal.SIGTERM)


def _terminate(number: int, frame: object) -> NoReturn:
    raise Terminated


def _is_lost_worker(error: RuntimeError) -> bool:
    """Whether PyTorch's loader says that one of its processes is gone."""
    return str(error).startswith("DataLoader worker")


def _describe(error: OSError) -> str:
    reason = error.strerror or str(error) or type(error).__name__
    return reason if error.filename is None else f"{error.filename}: {reason}"


def _exit(message: str, status: int) -> NoReturn:
    print(" ".join(message.split()), file=sys.stderr)
    sys.exit(status)
