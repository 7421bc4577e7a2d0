"""What a reward term is, and how terms become one reward."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from medtune.schema import Sample


@dataclass(frozen=True)
class Judged:
    """One answer in front of its truth.

    Attributes:
        text: What the model wrote.
        answer: The parsed answer, or None if the text is invalid.
        reason: Why it is invalid, or None.
        sample: The question, with truth and geometry.
    """

    text: str
    answer: Any
    reason: str | None
    sample: Sample


@dataclass(frozen=True)
class Term:
    """A part of the reward: `score` returns a value in 0..1, counted with `weight`."""

    name: str
    weight: float
    score: Callable[[Judged], float]


def reward(terms: list[Term], judged: Judged) -> tuple[float, dict[str, float]]:
    """Return the weighted sum of the terms, divided by the sum of the weights, and each term.

    Raises:
        ValueError: A term left 0..1; that is a bug in the term and must not be trained on.
    """
    values = {term.name: term.score(judged) for term in terms}
    for name, value in values.items():
        if not 0 <= value <= 1:
            raise ValueError(
                f"reward term {name} is {value} for {judged.sample.id}: {judged.text!r}"
            )
    total = sum(term.weight for term in terms)
    return sum(term.weight * values[term.name] for term in terms) / total, values
