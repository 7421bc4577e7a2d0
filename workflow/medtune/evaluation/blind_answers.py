"""Answers that say nothing of the video: what they earn is what a reward pays for form or luck."""

import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from statistics import fmean
from typing import Any

from medtune.config.base import AnyFamily
from medtune.models.coordinate_format import IMAGE_COORDINATE_FORMATS, CoordinateFormat
from medtune.records.sample import Sample
from medtune.rewards.base import Judged
from medtune.tasks.base import Task, with_truth

CONSTANT = "constant"  # the typical answer of the training split: the baseline
MOST_COMMON = "most common"
NUMBER = re.compile(r"\d+(\.\d+)?(e-?\d+)?")
PADDING = " I look at every frame of the video with care." * 200


def blind_texts(
    task: Task, sample: Sample, typical: Mapping[str, Any], dialect: CoordinateFormat
) -> dict[str, str]:
    """Return answers to a question that need no video, by name; the constant one first.

    Args:
        task: The task.
        sample: The question.
        typical: The truth that the constant answer claims.
        dialect: How the answers are written.
    """
    constant = task.target(with_truth(sample, typical), dialect)
    claims = task.blind(typical, sample)
    thinking = constant if "</think>" in constant else f"<think></think>{constant}"
    return {
        CONSTANT: constant,
        **{name: task.target(with_truth(sample, claim), dialect) for name, claim in claims.items()},
        "constant, with NaN for numbers": NUMBER.sub("NaN", constant),
        "constant, with infinite numbers": NUMBER.sub("Infinity", constant),
        "constant, twice": f"{constant}\n{constant}",
        "constant, after long reasoning": thinking.replace("</think>", f"{PADDING}</think>", 1),
        "the question": task.prompt(sample, dialect),
        "nothing": "",
    }


def blind_rows(
    task: Task, family: AnyFamily, train: Iterable[Sample], test: Sequence[Sample]
) -> dict[str, list[dict[str, Any]]]:
    """Return predictions for the test split, one table per blind answer, the constant one first.

    Args:
        task: The task.
        family: The model family in whose dialect they are written.
        train: Decides what is typical.
        test: The questions.
    """
    typical = task.constant_baseline(train)
    rows: dict[str, list[dict[str, Any]]] = {}
    for sample in test:
        claim = typical(sample)
        who = {"id": sample.id, "family": family, "mode": "greedy", "draw": 0, "video_of": ""}
        for name, text in blind_texts(
            task, sample, claim, IMAGE_COORDINATE_FORMATS[family]
        ).items():
            row = who | {"text": text, "tokens": 0, "ended": True}
            rows.setdefault(name, []).append(row)
    return rows


def degenerate_kind(judged: Judged) -> str:
    """Return what an answer says: the parsed answer as text, or its words if it is invalid."""
    return judged.text.strip() if judged.answer is None else repr(judged.answer)


def degenerate_answer_rates(
    judge: Callable[[Mapping[str, Any]], Judged],
    rows: Sequence[Mapping[str, Any]],
    blind: Mapping[str, Sequence[Mapping[str, Any]]],
) -> dict[str, float]:
    """Return the share of a model's answers that say what a blind one says, by its name.

    Under `MOST_COMMON` stands the share of the answer that it gives most often.

    Args:
        judge: Puts an answer in front of its truth.
        rows: Answers of the model, at least one.
        blind: Tables of blind answers to the same questions.
    """
    own = {row["id"]: degenerate_kind(judge(row)) for row in rows}
    shares = {
        name: fmean(own.get(row["id"]) == degenerate_kind(judge(row)) for row in table)
        for name, table in blind.items()
    }
    return shares | {MOST_COMMON: Counter(own.values()).most_common(1)[0][1] / len(own)}
