"""Mix a corpus of weakly labelled clips: `python -m models.mix --out DIR --train N --eval N`."""

from __future__ import annotations

from pathlib import Path

from models.data.mixing import MixOptions, is_finished, mix_corpus
from models.errors import CommandParser, run_command


def main() -> None:
    """Read the command line and mix the corpus."""
    options = parse()
    if is_finished(options.out):
        mix_corpus(options, progress=False)
        print(f"{options.out}: this corpus is there already")
        return
    mix_corpus(options)
    print(
        f"{options.out}: mixed {options.train} training and {options.evaluation} evaluation clips"
    )


def parse() -> MixOptions:
    """The options on the command line."""
    parser = CommandParser(prog="python -m models.mix", description=DESCRIPTION)
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="corpus folder")
    parser.add_argument("--train", type=int, required=True, metavar="N", help="training clips")
    parser.add_argument("--eval", type=int, required=True, metavar="N", help="evaluation clips")
    parser.add_argument(
        "--events",
        type=Path,
        metavar="DIR",
        help="recordings listed in DIR/events.csv (filename, mid, display_name); "
        "synthetic sounds without",
    )
    parser.add_argument("--seed", type=int, default=0, help="default 0")
    parser.add_argument(
        "--snr",
        type=float,
        nargs="+",
        default=(0.0, 20.0),
        metavar="DB",
        help="level of an event against the background under it: one value, the two ends of a "
        "range (default 0 20), or three values and more to draw from",
    )
    parser.add_argument("--sample-rate", type=int, default=16000, help="default 16000")
    parser.add_argument("--seconds", type=float, default=10.0, help="of a clip, default 10")
    parser.add_argument(
        "--events-per-clip",
        type=int,
        nargs=2,
        default=(1, 3),
        metavar=("MIN", "MAX"),
        help="different classes in a clip, default 1 3",
    )
    parser.add_argument(
        "--durations",
        type=float,
        nargs="+",
        default=(),
        metavar="S",
        help="seconds, a fifth more or less, that events of the first, second, ... class last, "
        "from the start again where there are more classes; default: as the recordings do",
    )
    parser.add_argument("--format", choices=("flac", "wav"), default="flac", help="default flac")
    given = parser.parse_args()
    return MixOptions(
        out=given.out,
        train=given.train,
        evaluation=given.eval,
        seed=given.seed,
        events=given.events,
        snr=tuple(given.snr),
        sample_rate=given.sample_rate,
        seconds=given.seconds,
        events_per_clip=tuple(given.events_per_clip),
        durations=tuple(given.durations),
        format=given.format,
    )


DESCRIPTION = """Mix sound events and noise into a corpus in AudioSet's format. An interrupted run
goes on where it stopped when the same command is given again. Training and evaluation clips are
different mixes of the same recordings: no recording is held out."""


if __name__ == "__main__":
    run_command(main)
