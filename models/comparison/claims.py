"""The papers' claims, each with a test on a study's own results.

A claim that one system has more of something than another is tested on the differences between runs
of the same seed: it holds, or does not, where zero lies outside the 95 % confidence interval of
their mean (Student's t), and is undecided otherwise. With three seeds that interval is 2.5 standard
deviations wide on either side, so that only plain differences are decided.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from scipy.stats import spearmanr, t

from models.comparison.published import DESHMUKH, HONG, LIU, WANG
from models.comparison.results import CorpusFacts, Mean, Results, System, mean_of

Verdict = Literal["holds", "does not hold", "undecided", "not tested"]

_SIGNIFICANCE = 0.05


@dataclass(frozen=True)
class Finding:
    """What a corpus's results say about a claim, and the figures that say so."""

    corpus: str
    verdict: Verdict
    evidence: str


@dataclass(frozen=True)
class Claim:
    """A claim of a paper, and how results answer it; an empty list is "not tested"."""

    key: str
    source: str
    statement: str
    test: Callable[[Results], list[Finding]]


def judge(results: Results) -> list[tuple[Claim, list[Finding]]]:
    """Every claim, with its findings on each corpus that has the systems for it."""
    return [(claim, claim.test(results)) for claim in CLAIMS]


def direction(difference: Mean) -> Verdict:
    """Whether a difference is above zero by more than the seeds' chance."""
    if difference.spread is None:
        return "undecided"
    half = t.ppf(1 - _SIGNIFICANCE / 2, difference.seeds - 1)
    if abs(difference.value) <= half * difference.spread / math.sqrt(difference.seeds):
        return "undecided"
    return "holds" if difference.value > 0 else "does not hold"


def together(verdicts: Sequence[Verdict]) -> Verdict:
    """Of a claim made of several: it holds where all do, and falls with any one."""
    if "does not hold" in verdicts:
        return "does not hold"
    return "holds" if all(verdict == "holds" for verdict in verdicts) else "undecided"


def _more(
    better: Sequence[str], worse: Sequence[str], measure: str, sign: int = 1
) -> Callable[[Results], list[Finding]]:
    """Each pooling of `better` has more (`sign` -1: less) of `measure` than each of `worse`.

    Compared are poolings of the same network. Where some were not run, the claim can fall but not
    hold.
    """

    def test(results: Results) -> list[Finding]:
        findings = []
        models = dict.fromkeys(system.model for system in results.systems)
        for corpus in results.corpora:
            for model in models:
                pairs = [
                    (System(model, one), System(model, other))
                    for one in better
                    for other in worse
                    if one != other
                ]
                finding = _compare(results, corpus, pairs, measure, sign)
                if finding is not None:
                    findings.append(finding)
        return findings

    return test


def _compare(
    results: Results,
    corpus: CorpusFacts,
    pairs: Sequence[tuple[System, System]],
    measure: str,
    sign: int,
) -> Finding | None:
    verdicts: list[Verdict] = []
    evidence = []
    for one, other in pairs:
        difference = results.difference(corpus.name, one, other, measure)
        verdict: Verdict = "not tested"
        if difference is not None:
            verdict = direction(Mean(sign * difference.value, difference.spread, difference.seeds))
            names = [
                (system.pooling if one.model == other.model else str(system)).replace("_", " ")
                for system in (one, other)
            ]
            evidence.append(f"{names[0]} less {names[1]} {_signed(difference)} ({verdict})")
        verdicts.append(verdict)
    if not evidence:
        return None
    text = f"{measure.replace('_', ' ')}: {'; '.join(evidence)}"
    return Finding(corpus.name, together(verdicts), text)


def _signed(difference: Mean) -> str:
    spread = "" if difference.spread is None else f" ± {difference.spread:.3f}"
    return f"{difference.value:+.3f}{spread}"


def _powers_fall_with_duration(results: Results) -> list[Finding]:
    findings = []
    for corpus in results.corpora:
        for system in results.systems:
            powers = mean_powers(results, corpus.name, system)
            if powers is None or corpus.event_seconds is None or len(powers) < 3:
                continue
            rank = spearmanr(corpus.event_seconds, powers)
            if math.isnan(rank.statistic):
                verdict: Verdict = "undecided"
            elif rank.pvalue >= _SIGNIFICANCE:
                verdict = "undecided"
            else:
                verdict = "holds" if rank.statistic < 0 else "does not hold"
            text = (
                f"{len(powers)} classes, Spearman's rank correlation {rank.statistic:+.2f}, "
                f"p = {rank.pvalue:.2g}; n from {min(powers):.2f} to {max(powers):.2f}"
            )
            findings.append(Finding(corpus.name, verdict, text))
    return findings


def mean_powers(results: Results, corpus: str, system: System) -> list[float] | None:
    """Exponent of each class, the mean over seeds; None of a system without."""
    powers = [run.powers for run in results.of(corpus, system).values() if run.powers]
    return [sum(column) / len(column) for column in zip(*powers, strict=True)] or None


_TWO_STEP = System("two_step_autoencoder", "two_step_attention")
_BASELINES = tuple(System("atrous_cnn", name) for name in ("mean", "max", "rank", "attention"))


def _two_step_leads(results: Results) -> list[Finding]:
    findings = []
    for corpus in results.corpora:
        pairs = [(_TWO_STEP, other) for other in _BASELINES]
        finding = _compare(results, corpus, pairs, "micro_AP", 1)
        if finding is not None:
            findings.append(finding)
    return findings


def _two_step_leads_more_in_noise(results: Results) -> list[Finding]:
    """Its lead over the best baseline is larger at the lowest SNR than at the highest."""
    corpora = sorted(
        (corpus for corpus in results.corpora if corpus.snr is not None),
        key=lambda corpus: corpus.snr or 0.0,
    )
    if len(corpora) < 2:
        return []
    noisy, clear = corpora[0], corpora[-1]
    leads = [_leads(results, corpus.name) for corpus in (noisy, clear)]
    gains = [leads[0][seed] - leads[1][seed] for seed in sorted({*leads[0]} & {*leads[1]})]
    gain, *means = (mean_of(values) for values in (gains, *(lead.values() for lead in leads)))
    if gain is None or None in means:
        return []
    at = [
        f"{_signed(mean)} at {corpus.snr:g} dB"
        for mean, corpus in zip(means, (noisy, clear), strict=True)
        if mean is not None
    ]
    text = f"micro AP, lead over the best baseline {' and '.join(at)}"
    return [Finding(f"{noisy.name}, {clear.name}", direction(gain), text)]


def _leads(results: Results, corpus: str) -> dict[int, float]:
    """Two-step attention's micro average precision less the best baseline's, by seed."""
    leads = {}
    for seed, run in results.of(corpus, _TWO_STEP).items():
        others = [results.of(corpus, other).get(seed) for other in _BASELINES]
        values = [other.measures.get("micro_AP") for other in others if other is not None]
        own = run.measures.get("micro_AP")
        best = [value for value in values if value is not None]
        if own is not None and best and len(best) == len(values):
            leads[seed] = own - max(best)
    return leads


_OTHERS = ("max", "mean", "exp_softmax", "attention")
_NOT_MAX = ("mean", "linear_softmax", "exp_softmax", "attention")
_EVERY = (*_OTHERS, "auto", "linear_softmax")

CLAIMS = (
    Claim(
        "linear_softmax_localises_best",
        f"{WANG}, section 3.1",
        "Linear softmax has a lower segment error rate than max, mean, exponential softmax and "
        "attention.",
        _more(("linear_softmax",), _OTHERS, "ungated_segment_er", -1),
    ),
    Claim(
        "all_localise_better_than_max",
        f"{WANG}, section 3.1",
        "Mean, linear softmax, exponential softmax, attention have a higher segment F1 than max.",
        _more(_NOT_MAX, ("max",), "ungated_segment_f1"),
    ),
    Claim(
        "all_tag_better_than_max",
        f"{WANG}, section 3.1",
        "Mean, linear softmax, exponential softmax, attention have a higher clip F1 than max.",
        _more(_NOT_MAX, ("max",), "clip_f1"),
    ),
    Claim(
        "max_misses",
        f"{WANG}, section 3.1",
        "Max has the lowest recall of segments: one frame of a clip learns.",
        _more(("max",), _NOT_MAX, "ungated_segment_recall", -1),
    ),
    Claim(
        "others_insert",
        f"{WANG}, section 3.1",
        "Mean, exponential softmax and attention insert more segments than linear softmax.",
        _more(
            ("mean", "exp_softmax", "attention"), ("linear_softmax",), "ungated_segment_insertions"
        ),
    ),
    Claim(
        "power_finds_events_best",
        f"{LIU}, tables 2 and 3",
        "Power has the highest event F1 (mean over classes) of all poolings.",
        _more(("power",), _EVERY, "event_f1_macro"),
    ),
    Claim(
        "power_finds_segments_best",
        f"{LIU}, tables 2 and 3",
        "Power has the highest segment F1 (mean over classes) of all poolings.",
        _more(("power",), _EVERY, "segment_f1_macro"),
    ),
    Claim(
        "power_tags_best",
        f"{LIU}, tables 2 and 3",
        "Power has the highest clip F1 (mean over classes) of all poolings.",
        _more(("power",), _EVERY, "clip_f1_macro"),
    ),
    Claim(
        "power_recalls_more",
        f"{LIU}, tables 2 and 3",
        "Power recalls more events (mean over classes) than linear softmax.",
        _more(("power",), ("linear_softmax",), "event_recall_macro"),
    ),
    Claim(
        "powers_fall_with_duration",
        f"{LIU}, figure 3",
        "Classes of longer events learn a smaller power n.",
        _powers_fall_with_duration,
    ),
    Claim(
        "gmap_tags_best",
        f"{HONG}, table 1",
        "Four heads with a gate have a higher mAP than max, mean, max + mean, attention and one "
        "head with deviations.",
        _more(("gmap",), ("max", "mean", "max_mean", "attention", "attention_stats"), "mAP"),
    ),
    Claim(
        "deviations_help",
        f"{HONG}, table 1",
        "One head with deviations has a higher mAP than attention without.",
        _more(("attention_stats",), ("attention",), "mAP"),
    ),
    Claim(
        "two_step_leads",
        f"{DESHMUKH}, table of average precision",
        "Two-step attention with a decoder has a higher micro average precision than GAP, GMP, "
        "GWRP and atrous attention.",
        _two_step_leads,
    ),
    Claim(
        "two_step_leads_more_in_noise",
        f"{DESHMUKH}, table of average precision",
        "Its lead over the best of them is larger at the lowest SNR than at the highest.",
        _two_step_leads_more_in_noise,
    ),
)
