"""A study's report in Markdown and JSON; every sentence of it follows from the results."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from models.comparison.claims import Claim, Finding, judge
from models.comparison.published import TABLES
from models.comparison.results import CorpusFacts, Results, RunResult, System

COLUMNS = (
    ("mAP", "mAP", max),
    ("micro_AP", "micro AP", max),
    ("clip_f1", "clip F1", max),
    ("clip_f1_macro", "clip F1 (classes)", max),
    ("ungated_segment_f1", "segment F1", max),
    ("ungated_segment_er", "segment ER", min),
    ("ungated_segment_recall", "segment recall", max),
    ("ungated_segment_insertions", "insertions", min),
    ("segment_f1_macro", "segment F1 of tagged (classes)", max),
    ("event_f1_macro", "event F1 of tagged (classes)", max),
    ("psds_1", "PSDS 1", max),
    ("psds_2", "PSDS 2", max),
)
"""Measure, heading and which end is best."""

EXPLANATION = """Mean ± sample standard deviation over the seeds; bold: the best mean of a column.
"(classes)" are means over classes, the others count all classes together. Segments are of 1 s.
Segment F1, ER, recall and insertions count every frame above its class's threshold; "of tagged"
leaves out classes that the clip is not tagged with. One frame marks its segment, of whatever
pooling (Wang, Li and Metze pool the frames of a segment and threshold that). Thresholds are tuned
on held-out training clips, by the clips' labels."""


def to_json(results: Results, facts: dict[str, object]) -> dict[str, object]:
    """Everything, as plain numbers and strings."""
    return {
        **facts,
        "corpora": [asdict(corpus) for corpus in results.corpora],
        "runs": [
            {**asdict(run), "system": asdict(run.system)}
            for run in sorted(results.runs, key=lambda run: (run.corpus, run.system, run.seed))
        ],
        "claims": [
            {
                "key": claim.key,
                "source": claim.source,
                "statement": claim.statement,
                "findings": [asdict(finding) for finding in findings],
            }
            for claim, findings in judge(results)
        ],
    }


def read_results(path: Path) -> Results:
    """What `to_json` made of a study, back again."""
    content = json.loads(path.read_text(encoding="utf-8"))
    runs = [
        RunResult(**{**run, "system": System(**run["system"])})
        for run in sorted(content["runs"], key=lambda run: run["seed"])
    ]
    return Results(runs, [CorpusFacts(**corpus) for corpus in content["corpora"]])


def to_markdown(results: Results, facts: dict[str, object]) -> str:
    """Tables, claims and the papers' figures."""
    parts = ["# Comparison", "", *(f"- {key}: {value}" for key, value in facts.items()), ""]
    for corpus in results.corpora:
        parts += [f"## {corpus.name}", ""]
        parts += [
            f"{corpus.train_clips} training and {corpus.evaluation_clips} evaluation clips of "
            f"{len(corpus.classes)} classes."
            + (f" Events at {corpus.snr:g} dB." if corpus.snr is not None else ""),
            "",
            *measures_table(results, corpus.name),
            "",
        ]
        if corpus.event_seconds is not None:
            parts += [*_durations_table(results, corpus.name), ""]
    parts += [EXPLANATION, "", "## Claims", "", *claims_table(judge(results)), ""]
    parts += ["## What the papers printed", ""]
    parts += ["On other corpora, with larger networks; not measured here.", ""]
    for table in TABLES:
        parts += [f"{table.source}; {table.corpus}:", ""]
        parts += _table(
            ["", *table.measures],
            [
                [name.replace("_", " "), *("–" if v is None else f"{v:.3f}" for v in values)]
                for name, values in table.rows.items()
            ],
        )
        parts.append("")
    return "\n".join(parts)


def measures_table(results: Results, corpus: str) -> list[str]:
    """One row for each system, one column for each measure that any of them has."""
    systems = [system for system in results.systems if results.of(corpus, system)]
    means = {
        key: {system: results.mean(corpus, system, key) for system in systems}
        for key, *_ in COLUMNS
    }
    columns = [column for column in COLUMNS if any(means[column[0]].values())]
    best = {
        key: choose(mean.value for mean in means[key].values() if mean)
        for key, _, choose in columns
    }
    rows = []
    for system in systems:
        cells = []
        for key, *_ in columns:
            mean = means[key][system]
            text = "–" if mean is None else str(mean)
            cells.append(f"**{text}**" if mean and mean.value == best[key] else text)
        rows.append([_shown(system, systems), *cells])
    return _table(["", *(heading for _, heading, _ in columns)], rows)


def claims_table(judged: Sequence[tuple[Claim, Sequence[Finding]]]) -> list[str]:
    """One row for each finding; a claim without any was not tested."""
    rows = []
    for claim, findings in judged:
        statement = f"{claim.statement} ({claim.source})"
        if not findings:
            rows.append([statement, "", "not tested", ""])
        for finding in findings:
            rows.append([statement, finding.corpus, f"**{finding.verdict}**", finding.evidence])
            statement = "″"
    return _table(["claim", "corpus", "here", "differences, mean ± deviation over seeds"], rows)


def _durations_table(results: Results, corpus: str) -> list[str]:
    facts = next(one for one in results.corpora if one.name == corpus)
    powered = [
        (system, [run.powers for run in results.of(corpus, system).values() if run.powers])
        for system in results.systems
    ]
    powered = [(system, powers) for system, powers in powered if powers]
    if not powered:
        return []
    seconds = facts.event_seconds or [0.0] * len(facts.classes)
    order = sorted(range(len(facts.classes)), key=lambda index: seconds[index])
    return _table(
        ["class", "mean event (s)", *(f"n of {system}, each seed" for system, _ in powered)],
        [
            [
                facts.classes[index],
                f"{seconds[index]:.2f}",
                *(", ".join(f"{one[index]:.2f}" for one in powers) for _, powers in powered),
            ]
            for index in order
        ],
    )


def _shown(system: System, systems: Sequence[System]) -> str:
    alone = len({one.model for one in systems}) == 1
    return system.pooling.replace("_", " ") if alone else str(system)


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    lines = [header, ["---"] * len(header), *rows]
    return [f"| {' | '.join(line)} |" for line in lines]
