"""The reward as TRL's trainer calls it, with what it logs of every term and completion."""

from collections.abc import Callable
from statistics import fmean, pstdev
from typing import Any

from medtune.models.coordinate_format import CoordinateFormat
from medtune.records.sample import Sample
from medtune.rewards.base import Judged, Term, score_all
from medtune.tasks.base import Task

LOGGED = "completion_row"


def differing(answers: list[str]) -> float:
    """Return 0 if all answers to a prompt are the same, 1 if no two are."""
    return (len(set(answers)) - 1) / max(1, len(answers) - 1)


def reward_function(
    task: Task, terms: list[Term], dialect: CoordinateFormat, group: int
) -> Callable[..., list[float]]:
    """Return TRL's reward function.

    It logs mean and within-group deviation of every term over the answers it concerns, how many
    answers of a group differ, and a row of every completion.
    """

    def total_reward(
        completions: list[Any], sample: list[Sample], log_metric: Any, log_extra: Any, **_: Any
    ) -> list[float]:
        """Return the reward of every completion, whose `sample` holds its truth."""
        texts = [completion[0]["content"] for completion in completions]
        judged = [task.judge(text, one, dialect) for text, one in zip(texts, sample, strict=True)]
        results = score_all(terms, judged)
        for term in terms:
            values = [value for _, parts in results if (value := parts[term.name]) is not None]
            if not values:  # the term concerns no sample of this batch
                continue
            groups = [values[i : i + group] for i in range(0, len(values), group)]
            log_metric(f"terms/{term.name}/mean", fmean(values))
            log_metric(f"terms/{term.name}/group_std", fmean(pstdev(g) for g in groups))
        told = [texts[i : i + group] for i in range(0, len(texts), group)]
        log_metric("answers/distinct", fmean(differing(one) for one in told))
        log_extra(LOGGED, [row(one, *result) for one, result in zip(judged, results, strict=True)])
        return [total for total, _ in results]

    def row(judged: Judged, total: float, parts: dict[str, float | None]) -> dict[str, Any]:
        """Return a completion as a row of the table; the video is known by its path."""
        return {
            "id": judged.sample.id,
            "prompt": task.prompt(judged.sample, dialect),
            "media": judged.sample.media[0].path,
            "text": judged.text,
            "reason": judged.reason,
            **{f"term_{name}": value for name, value in parts.items()},
            "reward": total,
        }

    return total_reward
