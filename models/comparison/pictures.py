"""Pictures of a study."""

from __future__ import annotations

from models.comparison.results import Results
from models.comparison.runs import StudyOptions


def draw_pictures(options: StudyOptions, results: Results) -> None:
    """Draw what the runs allow."""
