"""The folder of a training run: whose it is, whether it is finished, what it holds."""

from __future__ import annotations

import csv
import io
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from models.checkpoint import write_text
from models.errors import UserError


@dataclass(frozen=True)
class RunFolder:
    """Files of one run; `metrics.json` is written last and marks it as finished."""

    path: Path

    @property
    def config(self) -> Path:
        """The options that decide the result, and the class list."""
        return self.path / "config.json"

    @property
    def checkpoint(self) -> Path:
        """The latest state, from which the run goes on."""
        return self.path / "last.ckpt"

    @property
    def history(self) -> Path:
        """One row per epoch."""
        return self.path / "history.csv"

    @property
    def epochs(self) -> Path:
        """Detectors of the last epochs, where the run keeps any."""
        return self.path / "epochs"

    @property
    def best(self) -> Path:
        """The best epoch's detector, where the run keeps it."""
        return self.path / "best"

    @property
    def steps(self) -> Path:
        """One row per so many steps."""
        return self.path / "steps.csv"

    @property
    def unreadable(self) -> Path:
        """The clips that could not be read; absent where all could."""
        return self.path / "unreadable.tsv"

    @property
    def model(self) -> Path:
        """The trained detector."""
        return self.path / "model.pt"

    @property
    def metrics(self) -> Path:
        """The measures on the evaluation clips."""
        return self.path / "metrics.json"

    def is_finished(self) -> bool:
        """Whether the run has come to its end."""
        return self.metrics.exists()

    def claim(self, config: dict[str, Any], circumstances: dict[str, object] | None = None) -> None:
        """Make the folder this run's, or find that it is already.

        Args:
            config: what decides the run's result, and has to be the same when it goes on.
            circumstances: what else is noted beside it, and may change.

        Raises:
            UserError: where it belongs to a run of other options or classes, or to something else.
        """
        config = json.loads(json.dumps(config))
        if not self.path.exists() or self._is_empty():
            self.path.mkdir(parents=True, exist_ok=True)
            content = {**config, "circumstances": circumstances or {}}
            write_text(self.config, json.dumps(content, indent=2) + "\n")
            return
        if not self.config.exists():
            raise UserError(
                f"{self.path}: expected a new folder or one of an earlier run, found other files: "
                "choose another --out"
            )
        found = self.read_config()
        found.pop("circumstances", None)
        if found.get("classes") != config["classes"]:
            raise UserError(
                f"{self.path}: this run has another class list than the corpus "
                f"({_difference(found.get('classes'), config['classes'])}): use the corpus that it "
                "was started with, or another --out"
            )
        changed = sorted(key for key in {*found, *config} if found.get(key) != config.get(key))
        if changed:
            differences = ", ".join(
                f"{key} {found.get(key)} there and {config.get(key)} here" for key in changed
            )
            raise UserError(
                f"{self.path}: in use by a run of other options ({differences}): give those "
                "options to go on with it, or another --out"
            )

    def read_metrics(self) -> dict[str, object]:
        """What a finished run measured."""
        return _read_json(self.metrics)

    def read_config(self) -> dict[str, object]:
        """What decided the run's result, and its circumstances."""
        return _read_json(self.config)

    def _is_empty(self) -> bool:
        if not self.path.is_dir():
            raise UserError(f"{self.path}: expected a folder, found a file: choose another --out")
        # What a run killed at its very start leaves behind.
        leftover = self.config.with_name(f"{self.config.name}.part")
        return all(entry == leftover for entry in self.path.iterdir())


def write_history(path: Path, history: list[dict[str, float]]) -> None:
    """Write one row per epoch as CSV, whole or not at all."""
    text = io.StringIO()
    writer = csv.DictWriter(text, list(history[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(history)
    write_text(path, text.getvalue())


def read_history(path: Path) -> list[dict[str, float]]:
    """Read what `write_history` wrote."""
    with path.open(newline="", encoding="utf-8") as file:
        return [{name: float(value) for name, value in row.items()} for row in csv.DictReader(file)]


def _read_json(path: Path) -> dict[str, object]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, OSError, RecursionError) as error:
        raise UserError(f"{path}: cannot be read ({error}): choose another --out") from error
    if not isinstance(content, dict):
        raise UserError(f"{path}: expected a JSON object: choose another --out")
    return content


def _difference(there: object, here: list[str]) -> str:
    if not isinstance(there, list) or len(there) != len(here):
        count = len(there) if isinstance(there, list) else 0
        return f"{count} classes there and {len(here)} here"
    index = next(
        index for index, pair in enumerate(zip(there, here, strict=True)) if len({*pair}) > 1
    )
    return f"class {index} is {there[index]} there and {here[index]} here"
