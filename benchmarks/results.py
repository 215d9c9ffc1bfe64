"""The table of timings: a CSV with one row for each case, mode and implementation.

A row replaces the earlier one with the same `KEY`. Rows are appended as they are measured, so an
interrupted run keeps them; where a key comes twice the later row counts.
"""

from __future__ import annotations

import csv
from collections.abc import Iterable
from pathlib import Path

Row = dict[str, str]
Key = tuple[str, ...]

#: What makes two rows the same measurement.
KEY = (
    *("machine", "device", "instruction_set", "threads"),
    *("operation", "mode", "layout", "dtype", "kind", "shape", "implementation"),
)
COLUMNS = (
    *KEY,
    *("batch", "classes", "frames", "width", "heads", "cached", "input_sets", "frame_bytes"),
    *("status", "note", "median_seconds", "lower_quartile_seconds", "upper_quartile_seconds"),
    *("samples", "calls_per_sample", "host_seconds", "first_call_seconds", "peak_extra_bytes"),
    *("times_eager", "times_compile", "floor_share", "gigabytes_per_second", "copy_share"),
    *("python", "torch", "triton", "commit"),
)

TIMED = "timed"
FAILED = "failed"
UNAVAILABLE = "unavailable"


class Table:
    """The rows of a CSV file, by key.

    Args:
        path: of the file.
        columns: of the file.
        key: those that make two rows the same measurement.

    Raises:
        ValueError: if the file has other columns.
    """

    def __init__(
        self, path: Path, columns: tuple[str, ...] = COLUMNS, key: tuple[str, ...] = KEY
    ) -> None:
        self.path = path
        self.columns = columns
        self.key = key
        self.rows: dict[Key, Row] = {key_of(row, key): row for row in read(path, columns)}
        self._write()

    def add(self, rows: Iterable[Row]) -> None:
        """Append rows to the file."""
        with self.path.open("a", newline="") as file:
            writer = csv.DictWriter(file, self.columns, restval="")
            for row in rows:
                self.rows[key_of(row, self.key)] = row
                writer.writerow(row)

    def close(self) -> None:
        """Drop the rows that later ones have replaced."""
        self._write()

    def _write(self) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        fresh = self.path.with_suffix(".tmp")
        with fresh.open("w", newline="") as file:
            writer = csv.DictWriter(file, self.columns, restval="")
            writer.writeheader()
            writer.writerows(self.rows[key] for key in sorted(self.rows))
        fresh.replace(self.path)


def read(path: Path, columns: tuple[str, ...] = COLUMNS) -> list[Row]:
    """Rows of the file in order, without one that was cut short; none if there is no file.

    Raises:
        ValueError: if the file has other columns.
    """
    if not path.is_file():
        return []
    with path.open(newline="") as file:
        reader = csv.DictReader(file)
        if reader.fieldnames is not None and tuple(reader.fieldnames) != columns:
            raise ValueError(f"{path}: its columns are not this version's; move it away")
        return [row for row in reader if None not in row and None not in row.values()]


def key_of(row: Row, key: tuple[str, ...] = KEY) -> Key:
    return tuple(row[name] for name in key)
