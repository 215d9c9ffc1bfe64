"""Files that are there whole or not at all, whatever kills the program, and read without code."""

from __future__ import annotations

import os
import shutil
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

import torch


def write_atomically(path: Path, write: Callable[[BinaryIO], object]) -> None:
    """Let `write` fill a temporary file beside `path`, then rename it to `path`.

    Raises:
        OSError: where the folder cannot be written or the disk is full; `path` is as before.
    """
    part = path.with_name(f"{path.name}.part")
    try:
        with part.open("wb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)
    except BaseException as error:
        part.unlink(missing_ok=True)
        if isinstance(error, OSError) and error.filename is None:
            error.filename = str(path)
        raise


def write_text(path: Path, text: str) -> None:
    """Write a UTF-8 text file, whole or not at all."""
    write_atomically(path, lambda file: file.write(text.encode()))


@contextmanager
def whole_folder(path: Path) -> Iterator[Path]:
    """A folder to fill, which is `path` when the block has ended, and gone after an error.

    Raises:
        OSError: where `path` holds something, or cannot be written.
    """
    path = path.resolve()
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    part.mkdir(parents=True)
    try:
        yield part
        part.replace(path)
    except BaseException:
        shutil.rmtree(part, ignore_errors=True)
        raise


def save_atomically(content: object, path: Path) -> None:
    """`torch.save`, whole or not at all."""
    write_atomically(path, lambda file: torch.save(content, file))


def load_saved(path: Path) -> object:
    """What `save_atomically` wrote: tensors, numbers, strings and containers of them.

    Raises:
        FileNotFoundError: where there is nothing.
        ValueError: for any other file; no code in it is run, and none of it is unpacked.
    """
    try:
        # PyTorch packs nothing: what is packed could fill the memory.
        with zipfile.ZipFile(path) as archive:
            packed = any(entry.compress_type != zipfile.ZIP_STORED for entry in archive.infolist())
        if packed:
            raise ValueError("its parts are compressed")
        return torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise
    except Exception as error:  # of noise, nearly anything
        raise ValueError(f"{type(error).__name__}: {error}") from error
