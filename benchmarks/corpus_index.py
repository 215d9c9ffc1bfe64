"""Time and memory to open a corpus of AudioSet's size: `python -m benchmarks.corpus_index`.

Generates the segment lists and as many empty audio files, opens them in a fresh process as training
does, and prints seconds and the largest resident memory of each stage. The files stay in --folder
for the next time.
"""

from __future__ import annotations

import json
import resource
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
from tqdm import tqdm

from models.data.classes import ClassList
from models.data.corpus import open_corpus
from models.data.sampling import BalancedBatchSampler, held_out_split
from models.data.segments import SegmentList
from models.errors import CommandParser, run_command

_ALPHABET = np.array(list("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"))
_CLASSES = 527
_FILES_IN_A_FOLDER = 1000


def main() -> None:
    """Read the command line, generate what is not there, measure."""
    parser = CommandParser(prog="python -m benchmarks.corpus_index", description=__doc__)
    parser.add_argument("--folder", type=Path, required=True, help="where the corpus is generated")
    parser.add_argument("--clips", type=int, default=2_000_000, help="default 2000000")
    parser.add_argument("--measure", action="store_true", help="measure here what is there")
    given = parser.parse_args()
    if given.measure:
        measure(given.folder)
        return
    if not (given.folder / "eval_segments.csv").exists():
        generate(given.folder, given.clips)
    command = [sys.executable, "-m", "benchmarks.corpus_index", "--folder", str(given.folder)]
    subprocess.run([*command, "--measure"], check=True)


def generate(folder: Path, clips: int) -> None:
    """Write a corpus folder: names, labels (two a clip, frequencies by Zipf's law), empty files."""
    rng = np.random.default_rng(0)
    folder.mkdir(parents=True, exist_ok=True)
    mids = tuple(f"/m/{index:06x}" for index in range(_CLASSES))
    ClassList(mids, mids).write(folder / "class_labels_indices.csv")
    chances = 1 / np.arange(1, _CLASSES + 1)
    chances /= chances.sum()
    evaluation = min(20_000, clips // 100)
    splits = (("unbalanced_train", clips), ("eval", evaluation))
    for split, count in splits:
        with (folder / f"{split}_segments.csv").open("w") as table:
            table.write("# generated\n#\n# YTID, start_seconds, end_seconds, positive_labels\n")
            for first in tqdm(range(0, count, _FILES_IN_A_FOLDER), split):
                here = folder / "audio" / split / f"{first:08d}"
                here.mkdir(parents=True, exist_ok=True)
                number = min(_FILES_IN_A_FOLDER, count - first)
                names = _ALPHABET[rng.integers(64, size=(number, 11))]
                starts = rng.choice([0, 10, 20, 30, 60, 120, 333], number)
                labels = rng.choice(_CLASSES, (number, 4), p=chances)
                sizes = rng.integers(1, 4, number)
                for row in range(number):
                    ytid = "".join(names[row])
                    (here / f"Y{ytid}.wav").touch()
                    chosen = ",".join(mids[label] for label in labels[row, : sizes[row]])
                    start = starts[row]
                    table.write(f'{ytid}, {start}.000, {start + 10}.000, "{chosen}"\n')


def measure(folder: Path) -> None:
    """Open the corpus, split it and draw from it, and print what each stage took."""
    report: dict[str, object] = {"memory_before_MB": _memory()}
    start, busy = time.perf_counter(), time.process_time()
    corpus = open_corpus(folder)
    report["open_s"] = round(time.perf_counter() - start, 1)
    report["open_processor_s"] = round(time.process_time() - busy, 1)
    report["memory_after_opening_MB"] = _memory()
    assert isinstance(corpus.train, SegmentList)
    start = time.perf_counter()
    labels = corpus.train.labels
    training, held_out = held_out_split(labels, 0.1)
    report["split_s"] = round(time.perf_counter() - start, 1)
    start = time.perf_counter()
    sampler = BalancedBatchSampler(labels[training], 32)
    next(iter(sampler))
    report["first_batch_s"] = round(time.perf_counter() - start, 1)
    report["memory_at_the_end_MB"] = _memory()
    report |= {"clips": len(corpus.train), "held_out": len(held_out), "labels": int(labels.nnz)}
    report["columns_MB"] = round(corpus.train.nbytes / 1e6)
    print(json.dumps(report, indent=2))


def _memory() -> int:
    """The largest resident set of this process so far, in MB."""
    return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)


if __name__ == "__main__":
    run_command(main)
