"""The classes of a corpus, as AudioSet lists them."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from models.data.tables import quoted, read_rows, shown, write_lines
from models.errors import UserError

CLASS_HEADER = ["index", "mid", "display_name"]


@dataclass(frozen=True)
class ClassList:
    """The classes of a corpus in the order of its target columns: machine ids and names."""

    mids: tuple[str, ...]
    names: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.mids)

    @cached_property
    def _indices(self) -> dict[str, int]:
        return {mid: index for index, mid in enumerate(self.mids)}

    def __contains__(self, mid: object) -> bool:
        return mid in self._indices

    def index(self, mid: str) -> int:
        """Column of the class `mid`; KeyError where the list has no such class."""
        return self._indices[mid]

    @classmethod
    def read(cls, path: Path) -> ClassList:
        """Read `class_labels_indices.csv`; UserError names the file and line at fault."""
        rows = read_rows(path)
        line, header = next(rows, (0, []))
        if header != CLASS_HEADER:
            raise UserError(
                f"{path}: expected the header {','.join(CLASS_HEADER)} in line 1, found "
                f"{','.join(header) or 'nothing'}: use AudioSet's class_labels_indices.csv"
            )
        mids: dict[str, str] = {}
        for line, row in rows:
            if len(row) != 3 or not row[1] or row[0] != str(len(mids)):
                raise UserError(
                    f"{path}, line {line}: expected {len(mids)},mid,display_name, "
                    f"found {shown(row)}: number the classes from 0 without gaps"
                )
            if row[1] in mids:
                raise UserError(f"{path}, line {line}: {row[1]} is listed twice: remove one")
            mids[row[1]] = row[2]
        if not mids:
            raise UserError(f"{path}: expected at least one class, found only the header")
        return cls(tuple(mids), tuple(mids.values()))

    def write(self, path: Path) -> None:
        """Write the list as `class_labels_indices.csv`."""
        pairs = enumerate(zip(self.mids, self.names, strict=True))
        rows = (f"{index},{mid},{quoted(name)}" for index, (mid, name) in pairs)
        write_lines(path, [",".join(CLASS_HEADER), *rows])
