"""Write the report of a film."""

from collections.abc import Callable, Sequence

from medtune.metrics.labeler import read_labels
from medtune.metrics.labels import mark_hedged
from medtune.models.box_format import BoxFormat
from medtune.records.sample import Sample
from medtune.sources.chest.labels import LABELS
from medtune.tasks.base import InvalidAnswerError
from medtune.tasks.chest.part import ChestAnswer, Claim
from medtune.tasks.chest.templates import asked, has_words, listed, plain
from medtune.tasks.chest.texts import most_typical, report_scores

REQUESTS = (
    "Write the findings of a report.",
    "Report what you see.",
    "Describe the film as a radiologist would.",
    "Give a report of this film.",
    "Dictate the findings.",
    "What would the report of this film say?",
    "Describe heart, lungs, pleura, bones and devices.",
    "Put down in words what the film shows.",
    "Analyze the film and report the findings.",
    "Summarize the findings in a short report.",
)
EVERYTHING = f"There is {listed(map(plain, LABELS))}."


class ReportGeneration:
    """The task `report_generation`."""

    name = "report_generation"
    answer_format = "The findings of a report in plain sentences, about this one film alone."
    writes_boxes = False
    reasons = True
    scores = ("gleu", "bleu_4", "rouge_l", "label_f1")

    @property
    def example(self) -> Claim:
        """A truth that is nobody's."""
        return {"report": "", "labels": {}}

    def question(self, sample_id: str, truth: Claim) -> str:
        """Return the question; its wording derives from the id, and the truth does not matter."""
        del truth
        return asked(REQUESTS, sample_id)

    def gold(self, sample: Sample, form: BoxFormat) -> str:
        """Return the report as it is."""
        del form
        report: str = sample.truth["report"]
        return report

    def thought(self, sample: Sample) -> str:
        """Return which labels are known to be there."""
        labels = mark_hedged(sample.truth["labels"], read_labels(sample.truth["report"]))
        present = sorted(name for name, how in labels.items() if how == "present")
        seen = (
            f"I see {listed(map(plain, present))}." if present else "I see nothing that stands out."
        )
        return f"I go from the airways over lungs, pleura, heart and bones to devices. {seen}"

    def parse(self, text: str, sample: Sample, form: BoxFormat) -> ChestAnswer:
        """Return the text.

        Raises:
            InvalidAnswerError: It does not have two words.
        """
        del sample, form
        if not has_words(text):
            raise InvalidAnswerError("no words")
        return ChestAnswer(text=text.strip())

    def measure(self, answer: ChestAnswer | None, sample: Sample) -> dict[str, float | None]:
        """Return the agreement with the report of the truth; 0 if invalid."""
        if answer is None:
            return dict.fromkeys(self.scores, 0.0)
        return report_scores(answer.text, sample.truth["report"])

    def constant_baseline(self, samples: Sequence[Sample]) -> Callable[[Sample], Claim]:
        """Return the report that is most like others."""
        report = most_typical([one.truth["report"] for one in samples])
        return lambda _: _claim(report)

    def borrowed(self, other: Sample, sample: Sample) -> Claim:
        """Return another sample's report."""
        del sample
        return _claim(other.truth["report"])

    def blind(self, typical: Claim, sample: Sample) -> tuple[Claim, Claim]:
        """Return a normal report, and one with every label."""
        del typical, sample
        return _claim("No abnormality is seen."), _claim(EVERYTHING)


def _claim(report: str) -> Claim:
    return {"report": report, "labels": {}}
