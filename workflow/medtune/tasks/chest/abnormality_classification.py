"""Which of the 13 labels does a film show."""

from collections import Counter
from collections.abc import Callable, Sequence

from medtune.metrics.labeler import is_normal_report, read_labels
from medtune.metrics.labels import set_f1
from medtune.models.box_format import BoxFormat
from medtune.records.sample import Sample
from medtune.sources.chest.labels import LABELS
from medtune.tasks.base import InvalidAnswerError
from medtune.tasks.chest.part import ChestAnswer, Claim
from medtune.tasks.chest.templates import asked, capital, choose_template, listed, plain

REQUESTS = (
    "Which abnormalities does it show?",
    "Is anything abnormal? Name it.",
    "Name the findings that are present.",
    "What is abnormal on this film?",
    "List the abnormal findings, or say that there are none.",
    "Does it show disease or devices? Say which.",
    "Which findings would you report?",
    "Classify the film: what can be seen that is not normal?",
)
NOTHING = (
    "No abnormality is seen.",
    "There is nothing abnormal on this film.",
    "The film shows no abnormal finding.",
    "I see no abnormality.",
    "This film is normal.",
)
SOME = (
    "The film shows {}.",
    "I see {}.",
    "Present: {}.",
    "There is evidence of {}.",
    "The findings are {}.",
)
# Labels whose names are no words of a report.
SPOKEN = {
    "Enlarged Cardiomediastinum": "an enlarged cardiomediastinum",
    "Pleural Other": "pleural thickening or another pleural abnormality",
}
DEVICES = "Support Devices"
# Entry of a truth: its question names the labels that it knows.
LISTED = "listed"
NAMING = (
    "Which of these does it show: {names}?",
    "Look for {names}. Which of them are present?",
    "Say which of these findings can be seen: {names}.",
    "Is any of the following present: {names}? Name it.",
)


class AbnormalityClassification:
    """The task `abnormality_classification`."""

    name = "abnormality_classification"
    answer_format = (
        "A sentence that names the findings that are present, or says that there are none; a "
        f"finding that is denied does not count. The findings: {', '.join(LABELS)}."
    )
    writes_boxes = False
    reasons = True
    scores = ("f1", "exact")

    @property
    def example(self) -> Claim:
        """A truth that is nobody's."""
        return {"present": [], "absent": []}

    def question(self, sample_id: str, truth: Claim) -> str:
        """Return the question; its wording derives from the id.

        Of the truth it tells at most which labels are known, in alphabetical order.
        """
        if truth.get(LISTED):
            names = sorted([*truth["present"], *truth["absent"]])
            return asked(NAMING, sample_id, names=listed(map(_spoken, names)))
        return asked(REQUESTS, sample_id)

    def gold(self, sample: Sample, form: BoxFormat) -> str:
        """Return a sentence with the labels that are present, or that denies those asked for."""
        del form
        present = sorted(sample.truth["present"])
        if not present and sample.truth.get(LISTED):
            return f"There is no {', no '.join(map(_denied, sorted(sample.truth['absent'])))}."
        if not present:
            return choose_template(NOTHING, sample.id, "answer")
        return choose_template(SOME, sample.id, "answer").format(listed(map(_spoken, present)))

    def thought(self, sample: Sample) -> str:
        """Return in words what is there and what is not."""
        present, absent = (sorted(sample.truth[key]) for key in ("present", "absent"))
        said = "I look at lungs, pleura, heart, mediastinum, bones and devices."
        if present:
            said += f" {capital(listed(map(_spoken, present)))}: seen."
        return said + (f" {capital(listed(map(_spoken, absent)))}: not seen." if absent else "")

    def parse(self, text: str, sample: Sample, form: BoxFormat) -> ChestAnswer:
        """Return the labels that a text names, by the rules of `medtune.metrics.labeler`.

        A hedged label is neither present nor absent. A text that says the film is normal denies
        all others but devices.

        Raises:
            InvalidAnswerError: It names no label, and does not say that the film is normal; or it
                doubts labels and names none as present.
        """
        del sample, form
        said = {name: one.status for name, one in read_labels(text).items()}
        normal = is_normal_report(text)
        if not said and not normal:
            raise InvalidAnswerError("no finding is named, and none is denied")
        present, absent = (
            frozenset(name for name, how in said.items() if how == status)
            for status in ("present", "absent")
        )
        if not present and len(absent) < len(said):
            raise InvalidAnswerError("findings are doubted, and none is named")
        if normal:
            absent |= frozenset(LABELS) - said.keys() - {DEVICES}
        return ChestAnswer(present=present, absent=absent)

    def measure(self, answer: ChestAnswer | None, sample: Sample) -> dict[str, float | None]:
        """Return the agreement with the labels that are known; of others nothing is asked.

        f1: See `medtune.metrics.labels.set_f1`; if invalid 0.
        exact: 1 if no known label is wrong; if invalid 0.
        """
        if answer is None:
            return dict.fromkeys(self.scores, 0.0)
        present, absent = (set(sample.truth[key]) for key in ("present", "absent"))
        return {
            "f1": set_f1(answer.present, present, absent),
            "exact": float(answer.present & (present | absent) == present),
        }

    def constant_baseline(self, samples: Sequence[Sample]) -> Callable[[Sample], Claim]:
        """Return the most common set of present labels."""
        sets = Counter(tuple(sorted(one.truth["present"])) for one in samples)
        present = max(sorted(sets), key=sets.__getitem__, default=())
        return lambda _: _claim(present)

    def borrowed(self, other: Sample, sample: Sample) -> Claim:
        """Return another sample's labels."""
        del sample
        return _claim(other.truth["present"])

    def blind(self, typical: Claim, sample: Sample) -> tuple[Claim, Claim]:
        """Return no label, and all."""
        del typical, sample
        return _claim(()), _claim(LABELS)


def _claim(present: Sequence[str]) -> Claim:
    return {"present": [*present], "absent": [name for name in LABELS if name not in present]}


def _spoken(label: str) -> str:
    return SPOKEN.get(label, plain(label))


def _denied(label: str) -> str:
    return _spoken(label).removeprefix("an ")
