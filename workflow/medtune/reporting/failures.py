"""What of a training failed, for the report's first screen: invalid and cut-off answers."""

from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import BaseModel

from medtune.evaluation.failures import some_texts
from medtune.reporting.report_labels import ReportLabels

MUCH = 0.1  # share of answers from which on a failure is worth the first screen
LONGEST = 600  # characters of a text


class Failure(BaseModel):
    """How the greedy answers of one model fail.

    Attributes:
        failed: Whether that is so much that little else matters.
        verdict: In words.
        readable: Share of invalid answers that state an answer if their form is forgiven.
        reasons: The commonest, each with the share of all answers that it spoils.
        texts: Some answers.
    """

    model: str
    failed: bool
    verdict: str
    invalid: str
    readable: str
    cut_off: str
    reasons: list[str]
    texts: list[str]


def failed_answers(
    metrics: Mapping[str, Any],
    answers: Mapping[str, Sequence[Mapping[str, Any]]],
    words: ReportLabels,
) -> list[Failure]:
    """Return how each model fails.

    Args:
        metrics: What `score` wrote.
        answers: Scored greedy answers by model.
        words: The experiment's words.
    """
    return [
        _failure(metrics, model, rows, words)
        for model, rows in answers.items()
        if model in metrics["failures"]
    ]


def _failure(
    metrics: Mapping[str, Any], model: str, rows: Sequence[Mapping[str, Any]], words: ReportLabels
) -> Failure:
    known = metrics["failures"][model]
    signs = _signs(metrics, model, words)
    return Failure(
        model=model,
        failed=bool(signs),
        verdict="; ".join(signs) or "answers are valid, complete and above the constant one",
        invalid=f"{100 * known['invalid']:.1f} %",
        readable="-" if known["readable"] is None else f"{100 * known['readable']:.1f} %",
        cut_off=f"{100 * known['cut_off']:.1f} %",
        reasons=[f"{100 * one['share']:.1f} %: {one['reason']}" for one in known["reasons"]],
        texts=[_short(row["text"]) for row in some_texts(rows)],
    )


def _signs(metrics: Mapping[str, Any], model: str, words: ReportLabels) -> list[str]:
    """Return what is wrong with a model's answers."""
    known, found = metrics["failures"][model], []
    if known["invalid"] >= MUCH:
        found.append("many answers are invalid")
    if known["cut_off"] >= MUCH:
        found.append("many answers are cut off at evaluation.max_new_tokens")
    own, constant = (
        metrics["models"].get(name, {}).get("greedy", {}).get(words.main)
        for name in (model, "constant")
    )
    if own and constant and own["mean"] <= constant["mean"]:
        found.append(f"{words.name} is not above that of {words.constant}")
    return found


def _short(text: str) -> str:
    if not text.strip():
        return "(nothing)"
    return text if len(text) <= LONGEST else text[:LONGEST] + " …"
