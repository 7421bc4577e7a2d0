"""What one of the chest tasks is, and its answer."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from medtune.geometry.image import PixelBox
from medtune.models.box_format import BoxFormat
from medtune.records.sample import Sample

Claim = dict[str, Any]


@dataclass(frozen=True)
class ChestAnswer:
    """A valid answer to any of the tasks; what a task does not ask for is empty.

    Attributes:
        text: The report, or the reply in a conversation.
        present: Labels that are said to be there, without doubt.
        absent: Labels that are said not to be there.
        boxes: In pixels of the stored image.
        names: What the answer calls each box (abnormality detection).
    """

    text: str = ""
    present: frozenset[str] = frozenset()
    absent: frozenset[str] = frozenset()
    boxes: tuple[PixelBox, ...] = ()
    names: tuple[str, ...] = ()


class Part(Protocol):
    """Interface of the chest tasks.

    A claim is a truth that someone asserts; `gold` of a sample with that truth writes it.

    """

    @property
    def name(self) -> str:
        """`Sample.task`."""

    @property
    def answer_format(self) -> str:
        """What an answer is, in words."""

    @property
    def writes_boxes(self) -> bool:
        """Whether a prompt must say how boxes are written."""

    @property
    def reasons(self) -> bool:
        """Whether the task has a reasoning form."""

    @property
    def scores(self) -> tuple[str, ...]:
        """Names of its metrics."""

    @property
    def example(self) -> Claim:
        """A truth that is nobody's, to ask about."""

    def question(self, sample_id: str, truth: Claim) -> str:
        """Return the question; its wording derives from the id."""

    def gold(self, sample: Sample, form: BoxFormat) -> str:
        """Return the answer that states the sample's truth."""

    def thought(self, sample: Sample) -> str:
        """Return a reasoning that leads to the truth, without numbers."""

    def parse(self, text: str, sample: Sample, form: BoxFormat) -> ChestAnswer:
        """Return the answer that a text states.

        Raises:
            InvalidAnswerError: It states none.
        """

    def measure(self, answer: ChestAnswer | None, sample: Sample) -> dict[str, float | None]:
        """Return the metrics of an answer; None: it is invalid, and a failure under each."""

    def constant_baseline(self, samples: Sequence[Sample]) -> Callable[[Sample], Claim]:
        """Return the constant answer of samples of this task: what it claims of a sample."""

    def borrowed(self, other: Sample, sample: Sample) -> Claim:
        """Return what is true of another sample as a claim about this one."""

    def blind(self, typical: Claim, sample: Sample) -> tuple[Claim, Claim]:
        """Return the claims that nothing and that everything is found."""
