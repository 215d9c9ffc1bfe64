"""Posteriors in files that other programs read: a table of clips, and a table of each clip's frames
in the form of sed_scores_eval."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Iterator
from pathlib import Path

from models.checkpoint import whole_folder
from models.data.classes import ClassList
from models.errors import UserError
from models.evaluation import ClipResult
from models.psds import write_frame_scores

CLIPS, FRAMES = "clips.tsv", "frames"


def check_scores_folder(folder: Path) -> None:
    """Complain, before anything is computed, of a folder that holds something."""
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UserError(f"{folder}: expected a new folder for --scores, found files there")


def save_scores(
    results: Iterable[ClipResult], folder: Path, classes: ClassList, frame_seconds: float
) -> Iterator[ClipResult]:
    """Hand results on and write their posteriors, as they came out of the network.

    `folder` is there when the last result is through: `clips.tsv` with columns filename and the
    classes' names; `frames/CLIP.tsv` with onset and offset in seconds and the classes, a row for
    each frame, for networks that have frame probabilities. A / in a clip's name is written as %2F.
    """
    names = list(classes.names)
    with (
        whole_folder(folder) as part,
        (part / CLIPS).open("w", newline="", encoding="utf-8") as file,
    ):
        table = csv.writer(file, delimiter="\t", lineterminator="\n")
        table.writerow(["filename", *names])
        for result in results:
            table.writerow([result.clip_id, *map(str, result.clip)])
            if result.frame is not None and len(result.frame):
                (part / FRAMES).mkdir(exist_ok=True)
                path = part / FRAMES / f"{result.clip_id.replace('/', '%2F')}.tsv"
                write_frame_scores(path, result.frame, frame_seconds, names)
            yield result
