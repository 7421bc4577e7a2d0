"""What a task is: the one place that knows its question, its answers and how they are judged."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from medtune.models.dialect import Dialect
from medtune.rewards.base import Judged, Term
from medtune.schema import Sample


class InvalidAnswerError(ValueError):
    """The text is no answer of the task; the message says why."""


class Task(Protocol):
    """Interface of the modules in `medtune.tasks`."""

    @property
    def name(self) -> str:
        """Name of the task."""

    @property
    def answer_format(self) -> str:
        """What an answer is, in words and without numbers of any case."""

    def question(self, sample_id: str, geometry: Any, modalities: list[str]) -> str:
        """Return the question, without media placeholders and coordinate convention."""

    def prompt(self, sample: Sample, dialect: Dialect) -> str:
        """Return the question as a model family is asked it."""

    def target(self, truth: dict[str, Any], geometry: Any, dialect: Dialect) -> str:
        """Return the gold answer as a model family writes it."""

    def judge(self, text: str, sample: Sample, dialect: Dialect) -> Judged:
        """Parse a text strictly and put it in front of the sample's truth."""

    def terms(self, preset: str, weights: dict[str, float], own: Sequence[Term] = ()) -> list[Term]:
        """Return the reward terms of a preset and the user's own, with weights replaced."""

    def typical(
        self, examples: Sequence[tuple[dict[str, Any], Any]]
    ) -> Callable[[Any], dict[str, Any]]:
        """Return the constant-answer baseline: from a geometry to the truth it claims."""

    def hollow(self, typical: Mapping[str, Any], geometry: Any) -> dict[str, dict[str, Any]]:
        """Return truths to claim without looking, by name, given that of the constant answer."""

    def baselines(
        self, examples: Sequence[tuple[dict[str, Any], Any]], seed: int
    ) -> dict[str, Callable[[Sample, Path], dict[str, Any]]]:
        """Return answers without a model, by name: from a sample of a data set to a truth."""

    def measure(self, judged: Judged) -> dict[str, float | None]:
        """Return the metrics of one answer; None where a metric does not apply."""

    def repaired(self, judged: Judged) -> dict[str, tuple[float, float]] | None:
        """Return, by mistake, a score before and after it is undone; None where none applies."""

    def traits(self, sample: Sample) -> dict[str, Any]:
        """Return by what a case is told from others: `size`, a number or None, and `side`."""

    def consensus(self, answers: Sequence[Any]) -> int:
        """Return which of several parsed answers (None: invalid) stands for all."""
