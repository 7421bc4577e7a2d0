"""How the answers of a model are read: strictly, strictly after its reasoning, and leniently."""

from collections.abc import Iterable, Mapping
from typing import Any

from medtune.models.coordinate_format import IMAGE_COORDINATE_FORMATS
from medtune.records.sample import Sample
from medtune.rewards.base import Judged
from medtune.tasks.base import Task
from medtune.tasks.lenient import after_reasoning

STRIPPED = "stripped"  # column of rows: whether the reasoning before an answer is left out
Rows = list[dict[str, Any]]


def marked(tables: Mapping[str, Rows], stripped: Iterable[str]) -> dict[str, Rows]:
    """Return rows of predictions by model, with the column `STRIPPED`."""
    names = set(stripped)
    return {
        model: [row | {STRIPPED: model in names} for row in rows] for model, rows in tables.items()
    }


def read_answer(task: Task, row: Mapping[str, Any], sample: Sample) -> Judged:
    """Return the answer of a row in front of its truth.

    Where the reasoning is left out, what is left must be the answer alone, whatever form of
    reasoning the task asks of the models that it trains.
    """
    dialect = IMAGE_COORDINATE_FORMATS[row["family"]]
    if not row.get(STRIPPED):
        return task.judge(row["text"], sample, dialect)
    return task.direct().judge(after_reasoning(row["text"]), sample, dialect)
