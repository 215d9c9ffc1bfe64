"""Small text tables and files that are written whole or not at all."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from models.errors import UserError


def write_whole(path: Path, data: bytes) -> None:
    """Write a file so that it is there whole or not at all; UserError names it on failure."""
    part = path.with_name(f"{path.name}.part")
    try:
        part.write_bytes(data)
        part.replace(path)
    except OSError as error:
        part.unlink(missing_ok=True)
        raise UserError(
            f"{path}: cannot be written ({error.strerror}): make room or choose another folder"
        ) from error


def read_rows(
    path: Path, delimiter: str = ",", comments: bool = False
) -> Iterator[tuple[int, list[str]]]:
    """Yield (line number, values) of a text table, without blank lines and comments."""
    if not path.is_file():
        raise UserError(f"{path}: expected a file, found {kind(path)}")
    with path.open(encoding="utf-8-sig", newline="") as lines:
        reader = csv.reader(lines, delimiter=delimiter, skipinitialspace=True)
        try:
            for row in reader:
                if row and not (comments and row[0].startswith("#")):
                    yield reader.line_num, [value.strip() for value in row]
        except (UnicodeDecodeError, csv.Error) as error:
            raise UserError(
                f"{path}, after line {reader.line_num}: expected a text table in UTF-8 ({error})"
            ) from error


def write_lines(path: Path, lines: Iterable[str]) -> None:
    """Write a text file in UTF-8, one item a line."""
    write_whole(path, "".join(f"{line}\n" for line in lines).encode())


def quoted(name: str) -> str:
    """The name as a quoted CSV value."""
    text = io.StringIO()
    csv.writer(text, quoting=csv.QUOTE_ALL, lineterminator="").writerow([name])
    return text.getvalue()


def shown(row: Sequence[str]) -> str:
    """A row as an error message shows it."""
    text = ", ".join(row)
    return text if len(text) <= 80 else f"{text[:77]}..."


def kind(path: Path) -> str:
    """What an error message says was found at `path`."""
    if path.is_dir():
        return "a folder"
    return "a file" if path.exists() else "nothing there"
