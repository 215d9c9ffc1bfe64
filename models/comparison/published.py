"""What the papers printed, to put beside a study's own figures.

None of it was measured here: the corpora, the sizes of the networks and the measures' details
differ from any study's.
"""

from __future__ import annotations

from dataclasses import dataclass

WANG = "Wang, Li and Metze 2019, arXiv:1810.09050"
LIU = "Liu et al. 2021, arXiv:2010.09985"
HONG = "Hong, Zou and Wang 2020, Interspeech"
DESHMUKH = "Deshmukh, Raj and Singh 2020, arXiv:2008.07085"


@dataclass(frozen=True)
class PublishedTable:
    """A table of a paper: measures by row.

    Attributes:
        source: paper and table.
        corpus: what it was measured on.
        measures: names of the columns, as in metrics.json where we have the measure.
        rows: values by name of the pooling or system; None where the paper has none.
    """

    source: str
    corpus: str
    measures: tuple[str, ...]
    rows: dict[str, tuple[float | None, ...]]


_LIU_MEASURES = ("event_f1_macro", "segment_f1_macro", "clip_f1_macro")
_TWO_STEP_ROWS = ("mean", "max", "rank", "attention", "two_step_attention")


def _two_step(snr: int, *values: tuple[float | None, ...]) -> PublishedTable:
    return PublishedTable(
        f"{DESHMUKH}, table of average precision",
        f"41 classes, three events of 2 s in scenes at {snr} dB",
        ("micro_AP", "mAP", "mAUC"),
        dict(zip(_TWO_STEP_ROWS, values, strict=True)),
    )


TABLES = (
    PublishedTable(
        f"{LIU}, table 2",
        "DCASE 2017, task 4",
        _LIU_MEASURES,
        {
            "max": (0.094, 0.372, 0.465),
            "mean": (0.165, 0.450, 0.516),
            "exp_softmax": (0.166, 0.466, 0.521),
            "attention": (0.130, 0.434, 0.527),
            "auto": (0.169, 0.457, 0.536),
            "linear_softmax": (0.162, 0.471, 0.535),
            "power": (0.196, 0.480, 0.545),
        },
    ),
    PublishedTable(
        f"{LIU}, table 3",
        "DCASE 2019, task 4, mean teacher",
        _LIU_MEASURES,
        {
            "max": (0.256, 0.488, 0.609),
            "mean": (0.171, 0.564, 0.597),
            "exp_softmax": (0.187, 0.569, 0.611),
            "attention": (0.320, 0.600, 0.386),
            "auto": (0.218, 0.597, 0.655),
            "linear_softmax": (0.343, 0.583, 0.655),
            "power": (0.378, 0.624, 0.694),
        },
    ),
    PublishedTable(
        f"{HONG}, table 1",
        "AudioSet",
        ("mAP", "mAUC", "d_prime"),
        {
            "max": (0.396, 0.969, 2.640),
            "mean": (0.394, 0.966, 2.573),
            "max_mean": (0.397, 0.970, 2.654),
            "attention": (0.404, 0.969, 2.631),
            "attention_stats": (0.406, 0.970, 2.652),
            "gmap": (0.417, 0.971, 2.678),
        },
    ),
    _two_step(
        20,
        (0.507, 0.613, 0.934),
        (0.539, 0.519, 0.850),
        (0.702, 0.752, 0.936),
        (0.739, 0.759, 0.928),
        (0.783, 0.765, 0.939),
    ),
    _two_step(
        10,
        (0.429, 0.539, None),
        (0.526, 0.502, 0.842),
        (0.654, 0.713, 0.927),
        (0.674, 0.740, 0.921),
        (0.760, 0.749, 0.934),
    ),
    _two_step(
        0,
        (0.330, 0.409, 0.869),
        (0.464, 0.444, 0.819),
        (0.529, 0.608, 0.899),
        (0.571, 0.634, 0.901),
        (0.699, 0.689, 0.918),
    ),
)
"""Wang, Li and Metze's table 2 is not among them: no figures of it were at hand, only its text."""
