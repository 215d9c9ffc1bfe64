"""Pack a corpus into one HDF5 file: `python -m models.pack --data DIR --out FILE.h5`."""

from __future__ import annotations

import argparse
from pathlib import Path

from models.corpus_options import add_eval_lists, add_ignore_unknown_labels, corpus_options
from models.data.corpus import CorpusOptions, open_corpus
from models.data.packing import PackOptions, pack_corpus
from models.errors import CommandParser, run_command


def main() -> None:
    """Read the command line, pack and say what is in the pack."""
    data, reading, options = parse()
    packed = pack_corpus(open_corpus(data, reading), options)
    print(f"{options.out}: {packed.clips} clips")
    if packed.unreadable:
        print(f"{packed.unreadable} clips could not be read, all named in {options.unreadable}")
    if packed.cut:
        print(
            f"{packed.cut} clips are longer than {options.seconds:g} s, all named in "
            f"{options.cut}: only the first {options.seconds:g} s of them are packed (--seconds)"
        )


def parse() -> tuple[Path, CorpusOptions, PackOptions]:
    """The corpus, what of it is read, and the options on the command line."""
    parser = CommandParser(prog="python -m models.pack", description=DESCRIPTION)
    add = parser.add_argument
    add("--data", type=Path, required=True, metavar="DIR", help="corpus folder")
    add("--out", type=Path, required=True, metavar="FILE.h5", help="the pack")
    add("--split", choices=("train", "eval"), default="train", help="default train")
    add("--sample-rate", type=_rate, default=32000, metavar="HZ", help="default 32000")
    add("--seconds", type=_seconds, default=10.0, help="longest clip, default 10")
    add("--workers", type=int, default=0, metavar="N", help="processes that read, default 0")
    add_eval_lists(add)
    add_ignore_unknown_labels(add)
    parsed = parser.parse_args()
    given = vars(parsed)
    if given["workers"] < 0:
        parser.error(f"--workers: expected a whole number from 0, got {given['workers']}")
    reading = corpus_options(parsed)
    del given["eval_lists"], given["ignore_unknown_labels"]
    return given.pop("data"), reading, PackOptions(**given)


def _rate(text: str) -> int:
    if not text.isdecimal() or not 4000 <= int(text) <= 192000:
        raise argparse.ArgumentTypeError(f"expected 4000 to 192000 Hz, got {text}")
    return int(text)


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0.0
    if not 0.1 <= seconds <= 3600:
        raise argparse.ArgumentTypeError(f"expected 0.1 to 3600 s, got {text}")
    return seconds


DESCRIPTION = """Write the clips of a corpus folder into one HDF5 file as PANNs lays it out, with
each clip's length and id. A folder of train.h5, eval.h5 and class_labels_indices.csv is a corpus
for models.train. When it is stopped, the same command goes on where it was; clips that cannot be
read are left out and named beside the pack, as are those that are longer than --seconds."""


if __name__ == "__main__":
    run_command(main)
