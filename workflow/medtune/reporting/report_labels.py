"""What the report's words are, by the metric that ranks answers: of tumors or of films."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class ReportLabels:
    """Words for one kind of experiment.

    Attributes:
        main: The metric that ranks answers.
        name: Its name.
        answers: What answers consist of.
        constant: The answer that is always the same.
        media: What is shown.
    """

    main: str
    name: str
    answers: str
    constant: str
    media: str


TUMORS = ReportLabels("iou", "3-D IoU", "boxes", "a constant box", "video")
FILMS = ReportLabels("score", "score", "answers", "a constant answer", "image")


def words_for(metrics: Mapping[str, Any]) -> ReportLabels:
    """Return the words for an evaluation (the content of `metrics.json`)."""
    known = {name for modes in metrics["models"].values() for one in modes.values() for name in one}
    return FILMS if FILMS.main in known else TUMORS
