"""Signs in the answers themselves that a model copies or collapses."""

from collections import Counter
from collections.abc import Mapping, Sequence
from statistics import fmean, pstdev
from typing import Any

from medtune.evaluation.reading import read_answer
from medtune.models.coordinate_format import IMAGE_COORDINATE_FORMATS
from medtune.records.sample import Sample
from medtune.tasks.base import Task

Rows = Sequence[Mapping[str, Any]]
Pairs = Sequence[tuple[Sequence[float], Sequence[float]]]  # predicted and true center
FEWEST = 5  # cases to judge by
ALIKE = 0.25  # spread of boxes below this share of the truth's
COPIED = 0.5  # share of answers
WORDS = 4  # of a repeated phrase
TIMES = 3


def repeated_phrase(text: str) -> bool:
    """Return whether a phrase of four words comes three times or more."""
    words = text.split()
    phrases = Counter(zip(*(words[start:] for start in range(WORDS)), strict=False))
    return max(phrases.values(), default=0) >= TIMES


def spread(pairs: Pairs) -> float | None:
    """Return how much predicted boxes vary over cases, as a share of how much the truth does.

    Both are standard deviations of the box center in fractions of the frame, along the axis where
    the share is smallest; 1 is as much as the truth, 0 the same place everywhere. None if the truth
    itself does not vary.

    Args:
        pairs: Predicted and true center, in fractions of the frame, of every case.
    """
    shares = []
    for axis in range(len(pairs[0][0])):
        predicted, true = (pstdev(pair[side][axis] for pair in pairs) for side in (0, 1))
        shares += [predicted / true] if true else []
    return min(shares, default=None)


def signs(
    model: str, rows: Rows, samples: Mapping[str, Sample], task: Task
) -> tuple[list[str], list[str]]:
    """Return a row of the table of signs, and warnings in words.

    Args:
        model: Name of the model.
        rows: Its greedy answers, scored.
        samples: The questions by id.
        task: Parses the answers.
    """
    pairs, copied = [], 0
    for row in rows:
        sample, dialect = samples[row["id"]], IMAGE_COORDINATE_FORMATS[row["family"]]
        centers = task.centers(read_answer(task, row, sample))
        pairs += [centers] if centers else []
        text = row["text"].strip()
        copied += bool(text) and text in task.prompt(sample, dialect)
    texts = [row["text"] for row in rows]
    most = Counter(texts).most_common(1)[0][1] / len(rows)
    repeating = fmean(map(repeated_phrase, texts))
    varied = spread(pairs) if len(pairs) >= FEWEST else None
    found = []
    if varied is not None and varied < ALIKE:
        found.append(
            f"its boxes hardly depend on the case: {varied:.2f} times what the truth varies"
        )
    for share, words in (
        (most, "of its answers are one and the same text"),
        (copied / len(rows), "of its answers are copied from the question"),
        (repeating, "of its answers repeat a phrase"),
    ):
        if share >= COPIED:
            found.append(f"{100 * share:.0f} % {words}")
    shares = [f"{100 * share:.1f} %" for share in (most, copied / len(rows), repeating)]
    cells = [model, "too few boxes" if varied is None else f"{varied:.2f}", *shares]
    return cells, [f"{model}: {text}" for text in found]
