"""Compare poolings over seeds and hold the papers' claims against the results:
`python -m models.compare --data DIR --out DIR --poolings max linear_softmax power`."""

from __future__ import annotations

import argparse
import json
from dataclasses import fields
from pathlib import Path
from typing import Any

import torch

from models import build_model, list_model_poolings, list_models, model_class
from models.checkpoint import write_text
from models.comparison.claims import judge
from models.comparison.pictures import draw_pictures
from models.comparison.report import to_json, to_markdown
from models.comparison.results import Results, RunResult, System
from models.comparison.runs import StudyCorpus, StudyOptions, options_of, run_all
from models.demo_page import describe_machine
from models.errors import CommandParser, UserError, run_command
from models.median import add_median_options, check_median_options
from models.train_arguments import (
    add_cache_option,
    add_computing_options,
    add_learning_options,
    settle,
)
from models.train_options import TrainOptions

_SHOWN = ("data", "epochs", "batch_size", "learning_rate")
"""What a report names by itself."""

_OWN = ("data", "out", "model", "pooling", "features", "seed", "model_options")
_TRAINING = tuple(
    entry.name
    for entry in fields(TrainOptions)
    if entry.name not in (*_OWN, "devices", "nodes", "cache_features")
)
"""Options of models.train that a study takes for all of its runs."""

POOLINGS = ("max", "mean", "exp_softmax", "attention", "auto", "linear_softmax", "power")


def main() -> None:
    """Read the command line, run the study and say which claims hold."""
    options = parse()
    results = compare(options)
    for claim, findings in judge(results):
        for finding in findings:
            print(f"{finding.verdict:14} {finding.corpus}: {claim.statement}")
    print(f"report: {options.out / 'report.md'}")


def compare(options: StudyOptions) -> Results:
    """Train, measure, judge and draw, going on where an earlier study of it stopped.

    `report.md` and `results.json` are written anew after each run, pictures at the end.

    Raises:
        UserError: for what the user can put right.
    """
    _check(options)
    corpora = [StudyCorpus(path, options).facts() for path in options.data]
    runs: list[RunResult] = []
    results = Results(runs, corpora)
    for _, result in run_all(options):
        runs.append(result)
        results = Results(list(runs), corpora)
        _write(options, results)
    draw_pictures(options, results)
    return results


def _write(options: StudyOptions, results: Results) -> None:
    training = options.train_options(options.data[0], options.out)
    facts = {
        "seeds": ", ".join(str(seed) for seed in options.seeds),
        "epochs": training.epochs,
        "batch size": training.batch_size,
        "learning rate": training.learning_rate,
        "model options": json.dumps(options.model_options),
        "other options": json.dumps(_other_options(options, training)),
        "machine": describe_machine(),
    }
    content = to_json(results, facts)
    write_text(options.out / "results.json", json.dumps(content, indent=2) + "\n")
    write_text(options.out / "report.md", to_markdown(results, facts))


def _other_options(options: StudyOptions, training: TrainOptions) -> dict[str, Any]:
    """What else the result depends on, where it is not as usual."""
    usual = StudyOptions(options.out, options.data, options.systems)
    plain = usual.train_options(options.data[0], options.out)
    learned = {
        name: getattr(training, name)
        for name in training.deciding_names()
        if name not in _SHOWN and getattr(training, name) != getattr(plain, name)
    }
    measured = {
        name: str(getattr(options, name))
        for name in ("median", "median_share", "event_lengths")
        if getattr(options, name) != getattr(usual, name)
    }
    return {**learned, **measured}


def _check(options: StudyOptions) -> None:
    out = options.out
    if out.exists() and not out.is_dir():
        raise UserError(f"{out}: expected a folder, found a file: choose another --out")
    # Runs are what a study writes first.
    if out.exists() and any(out.iterdir()) and not (out / "runs").is_dir():
        raise UserError(
            f"{out}: expected a new folder or one of an earlier study, found other files: choose "
            "another --out"
        )
    for system in options.systems:
        known = list_model_poolings(system.model)
        if system.pooling not in known:
            raise UserError(
                f"{system.model}: expected one of its poolings {', '.join(known)}, "
                f"got {system.pooling}"
            )
        _check_network(system, options)


def _check_network(system: System, study: StudyOptions) -> None:
    # All are looked at before the first trains, which takes long.
    try:
        with torch.device("meta"):
            network = build_model(system.model, 2, system.pooling, **options_of(study, system))
    except (TypeError, ValueError) as error:
        raise UserError(
            f"{system}: the network cannot be built ({error}): correct --model-option"
        ) from error
    if study.training.get("mean_teacher") and not network.has_frames:
        raise UserError(
            f"{system}: expected a network with frame probabilities for --mean-teacher, got one "
            "without"
        )


def parse() -> StudyOptions:
    """The options on the command line."""
    parser = CommandParser(prog="python -m models.compare", description=DESCRIPTION)
    add = parser.add_argument
    add(
        "--data",
        type=Path,
        required=True,
        nargs="+",
        metavar="DIR",
        help="corpus folders; one for each SNR, mixed by models.mix --snr, to compare over noise",
    )
    add("--out", type=Path, required=True, metavar="DIR", help="folder of the study")
    add("--model", choices=list_models(), default="dcase2017_crnn")
    add(
        "--poolings",
        nargs="+",
        metavar="NAME",
        help=f"of the network; default {' '.join(POOLINGS)}, or none with --systems",
    )
    add(
        "--systems",
        nargs="+",
        default=[],
        metavar="MODEL[:POOLING]",
        help="further networks, each with its own pooling or the one that is named",
    )
    add("--seeds", nargs="+", type=int, default=[0, 1, 2], metavar="N", help="default 0 1 2")
    add(
        "--model-option",
        action="append",
        default=[],
        type=_model_option,
        metavar="[MODEL[:POOLING]:]NAME=VALUE",
        help="an option of the network (of --model without a name), the value in JSON",
    )
    add_cache_option(add, default=True)
    shared = parser.add_argument_group("training of every run, as models.train takes it")
    add_learning_options(shared.add_argument)
    add_computing_options(shared.add_argument)
    add_median_options(parser)
    given = parser.parse_args()
    check_median_options(parser, given)
    if min(given.seeds) < 0 or len({*given.seeds}) < len(given.seeds):
        parser.error("--seeds: expected different whole numbers from 0")
    chosen = given.poolings or ([] if given.systems else POOLINGS)
    systems = [System(given.model, pooling) for pooling in chosen]
    systems += [_system(text, parser) for text in given.systems]
    training = vars(given)
    settle(parser, training)
    training = {name: training[name] for name in _TRAINING}
    options: dict[str, dict[str, Any]] = {}
    known = dict.fromkeys(key for system in systems for key in (system.model, system.key))
    for place, name, value in given.model_option:
        key = place or given.model
        if key not in known:
            parser.error(
                f"--model-option: expected an option of {', '.join(known)}, got one of {key}"
            )
        options.setdefault(key, {})[name] = value
    return StudyOptions(
        out=given.out,
        data=tuple(given.data),
        systems=tuple(dict.fromkeys(systems)),
        seeds=tuple(given.seeds),
        features=given.features,
        model_options=options,
        training=training,
        cache_features=given.cache_features,
        median=given.median,
        median_share=given.median_share,
        event_lengths=given.event_lengths,
    )


def _system(text: str, parser: CommandParser) -> System:
    model, _, pooling = text.partition(":")
    if model not in list_models():
        parser.error(f"--systems: expected one of {', '.join(list_models())}, got {model}")
    return System(model, pooling or model_class(model).default_pooling)


def _model_option(text: str) -> tuple[str, str, object]:
    place, separator, value = text.partition("=")
    if not separator:
        raise argparse.ArgumentTypeError(f"expected NAME=VALUE, got {text}")
    model, _, name = place.rpartition(":")
    try:
        return model, name, json.loads(value)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"expected a value in JSON, got {value}") from error


DESCRIPTION = """Train a network with several poolings over several seeds, measure tagging and
localisation, and say which claims of the papers hold on this corpus. Writes report.md, results.json
and pictures. Finished runs are kept: an interrupted study goes on where it stopped when the same
command is given again, and more poolings or seeds can be added."""


if __name__ == "__main__":
    run_command(main)
