"""A conversation about a film, without boxes and with them."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from medtune.metrics.boxes import measure_boxes
from medtune.models.box_format import STORED, WRITTEN, BoxFormat
from medtune.records.sample import Sample
from medtune.tasks.base import InvalidAnswerError
from medtune.tasks.chest.boxes import geometry_of, read_boxes
from medtune.tasks.chest.part import ChestAnswer, Claim
from medtune.tasks.chest.templates import choose_template, has_words
from medtune.tasks.chest.texts import most_typical, similarity

ASKED = ("What does this film show?", "Can you describe this X-ray?", "What do you see here?")
SAID = "said"  # what a claim replies, instead of the sample's target


@dataclass(frozen=True)
class Conversation:
    """The tasks `conversation` and `grounded_conversation`.

    Questions and replies come from the samples; boxes in them are written as the family writes
    them.
    """

    name: str
    answer_format: str
    writes_boxes: bool
    scores: tuple[str, ...]
    reasons: bool = False

    @property
    def example(self) -> Claim:
        """A truth that is nobody's."""
        return {"report": None, "labels": {}, "regions": []}

    def question(self, sample_id: str, truth: Claim) -> str:
        """Return a question that may open a conversation."""
        del truth
        return choose_template(ASKED, sample_id, "request")

    def gold(self, sample: Sample, form: BoxFormat) -> str:
        """Return the reply of the sample, or of the claim."""
        return form.render(_reply(sample), geometry_of(sample))

    def thought(self, sample: Sample) -> str:
        """Return nothing: conversations have no reasoning form."""
        del sample
        return ""

    def parse(self, text: str, sample: Sample, form: BoxFormat) -> ChestAnswer:
        """Return the text, with its boxes in the form of samples, and the boxes.

        Raises:
            InvalidAnswerError: It does not have two words, or see `read_boxes`.
        """
        if not has_words(text):
            raise InvalidAnswerError("no words")
        geometry = geometry_of(sample)
        found = read_boxes(text, geometry, form)
        said, end = "", 0
        for start, stop, box in found:
            said, end = said + text[end:start] + STORED.write(box, geometry), stop
        said = (said + text[end:]).strip()
        boxes = tuple(dict.fromkeys(box for _, _, box in found))  # one may be spoken of again
        return ChestAnswer(text=said, boxes=boxes)

    def measure(self, answer: ChestAnswer | None, sample: Sample) -> dict[str, float | None]:
        """Return the agreement of words, without boxes, and of boxes with those of the reply."""
        reply = sample.target or ""
        boxes = [[float(v) for v in found] for found in dict.fromkeys(WRITTEN.findall(reply))]
        found = measure_boxes(answer.boxes if answer else None, boxes)
        words = (
            similarity(*(WRITTEN.sub(" ", text) for text in (answer.text, reply)))
            if answer
            else 0.0
        )
        return {name: words if name == "gleu" else found[name] for name in self.scores}

    def constant_baseline(self, samples: Sequence[Sample]) -> Callable[[Sample], Claim]:
        """Return the reply that is most like others, without boxes."""
        reply = most_typical([WRITTEN.sub("", one.target or "") for one in samples])
        return lambda sample: sample.truth | {SAID: reply}

    def borrowed(self, other: Sample, sample: Sample) -> Claim:
        """Return another sample's reply, without boxes."""
        return sample.truth | {SAID: WRITTEN.sub("", other.target or "")}

    def blind(self, typical: Claim, sample: Sample) -> tuple[Claim, Claim]:
        """Return that all is normal, and that nothing is."""
        del typical
        normal, ill = "I see nothing abnormal.", "Heart, lungs, pleura and bones are all abnormal."
        return sample.truth | {SAID: normal}, sample.truth | {SAID: ill}


def _reply(sample: Sample) -> str:
    said: str = sample.truth.get(SAID, sample.target or "")
    return said


PLAIN = Conversation(
    name="conversation",
    answer_format="A reply in plain sentences to the last question.",
    writes_boxes=False,
    scores=("gleu",),
)
GROUNDED = Conversation(
    name="grounded_conversation",
    answer_format="A reply in plain sentences to the last question, with boxes for places.",
    writes_boxes=True,
    scores=("gleu", "soft_f1", "mean_iou"),
)
