"""What a task is: the one place that knows its question, its answers and how they are judged."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from medtune.geometry.volume import Box
from medtune.models.coordinate_format import CoordinateFormat
from medtune.records.sample import Sample
from medtune.rewards.base import Judged, Term

Center = tuple[float, ...]
Rendered = tuple[str, list[Box]]  # in words, and its boxes in pixels and frames


class InvalidAnswerError(ValueError):
    """The text is no answer of the task; the message says why."""


class Task(Protocol):
    """Interface of the modules in `medtune.tasks`.

    A claim is a truth that someone asserts: `target` of a sample with that truth writes it.
    """

    @property
    def name(self) -> str:
        """Name of the task."""

    @property
    def main(self) -> str:
        """The metric that ranks answers; None where it does not apply."""

    @property
    def read_leniently(self) -> tuple[str, ...]:
        """The metrics that stand beside the strict ones for answers that are leniently read."""

    @property
    def answer_format(self) -> str:
        """What an answer is, in words and without numbers of any case."""

    def example(self, sample: Sample) -> str:
        """Return a question like a sample's that tells nothing of its case."""

    def prompt(self, sample: Sample, dialect: CoordinateFormat) -> str:
        """Return the question as a model family is asked it."""

    def render_history(self, sample: Sample, dialect: CoordinateFormat) -> Sample:
        """Return a sample whose earlier turns are as a model family writes them."""

    def target(self, sample: Sample, dialect: CoordinateFormat) -> str:
        """Return the gold answer as a model family writes it."""

    def sought(self, sample: Sample) -> tuple[str, list[dict[str, Any]]] | None:
        """Return what is to be found, in words, and where, as Seg-Zero and its kin learn it.

        Whole pixels; None: the sample asks for nothing by name, or nothing is there.
        """

    def judge(self, text: str, sample: Sample, dialect: CoordinateFormat) -> Judged:
        """Parse a text strictly and put it in front of the sample's truth."""

    def judge_leniently(self, text: str, sample: Sample, dialect: CoordinateFormat) -> Judged:
        """Parse a text whose form is forgiven (see `medtune.tasks.lenient`)."""

    def direct(self) -> "Task":
        """Return the task without the reasoning form."""

    def terms(self, preset: str, weights: dict[str, float], own: Sequence[Term] = ()) -> list[Term]:
        """Return the reward terms of a preset and the user's own, with weights replaced."""

    def constant_baseline(self, samples: Iterable[Sample]) -> Callable[[Sample], dict[str, Any]]:
        """Return the constant-answer baseline of samples: what it claims of a sample."""

    def blind(self, typical: Mapping[str, Any], sample: Sample) -> dict[str, dict[str, Any]]:
        """Return claims made without looking, by name, given that of the constant answer."""

    def baselines(
        self, samples: Iterable[Sample], seed: int
    ) -> dict[str, Callable[[Sample, Path], dict[str, Any]]]:
        """Return answers without a model, by name: what they claim of a sample of a data set."""

    def measure(self, judged: Judged) -> dict[str, float | None]:
        """Return the metrics of one answer; None where a metric does not apply."""

    def error_hypotheses(self, judged: Judged) -> dict[str, tuple[float, float]] | None:
        """Return, by mistake, a score before and after it is undone; None where none applies."""

    def centers(self, judged: Judged) -> tuple[Center, Center] | None:
        """Return the centers of answered and true box in fractions of the frame; None: no box."""

    def truth_shown(self, sample: Sample) -> Rendered:
        """Return the truth as a reader is shown it, in pixels and frames for every family."""

    def answer_shown(self, answer: Any) -> Rendered:
        """Return a parsed answer as a reader is shown it, in pixels and frames for every family."""

    def strata(self, sample: Sample) -> dict[str, Any]:
        """Return by what a case is told from others: `size`, a number or None, and `side`."""

    def majority_vote(self, answers: Sequence[Any]) -> int:
        """Return which of several parsed answers (None: invalid) stands for all."""


def with_truth(sample: Sample, claim: Mapping[str, Any]) -> Sample:
    """Return a sample with a claim for its truth."""
    return sample.model_copy(update={"truth": dict(claim)})
