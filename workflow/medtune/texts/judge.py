"""Verdicts of a language model on reports and conversations: what is asked, their form and scores.

Each is a step like those in `medtune.llm`, with its guard: texts go only where their source may go.

GREEN here has the score of Ostmeier et al. ("GREEN", EMNLP findings 2024), but a prompt of our own
for any model: its figures are not to be compared with those of the published GREEN model.
"""

from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field

from medtune.runtime.files import canonical_json
from medtune.texts.items import Answer, Item
from medtune.texts.steps import Step

PROMPTS = Path(__file__).parent / "judge_prompts"


class JudgedReport(Item):
    """A report that is judged, and the true one."""

    reference: str
    candidate: str


class Exchange(BaseModel):
    """A round of a conversation: what was asked, what is right, and what was answered."""

    model_config = ConfigDict(frozen=True)

    question: str
    expected: str
    answered: str


class JudgedConversation(Item):
    """Rounds of a conversation that are judged.

    Attributes:
        known: What is true of the film, as in `Sample.truth`.
        earlier: Rounds before them, with right answers.
        rounds: What is judged.
    """

    known: dict[str, Any]
    earlier: list[dict[str, str]]
    rounds: tuple[Exchange, ...]


class _Verdict(Answer):
    model_config = ConfigDict(strict=True)


class Errors(_Verdict):
    """Errors of a report by their kind, each as a short quotation."""

    false_finding: list[str]
    missing_finding: list[str]
    wrong_place: list[str]
    wrong_severity: list[str]
    false_comparison: list[str]
    missing_comparison: list[str]

    @property
    def count(self) -> int:
        """How many there are."""
        return sum(len(quotations) for quotations in self.model_dump().values())


class GreenVerdict(_Verdict):
    """What a judge says of a report.

    Attributes:
        matched: Findings of the reference that the report states.
        significant: Errors that might change what is done for the patient.
        insignificant: Other errors.
    """

    matched: list[str]
    significant: Errors
    insignificant: Errors

    @property
    def score(self) -> float:
        """Matched / (matched + significant errors), 0..1; 0 if nothing matches."""
        matched = len(self.matched)
        return matched / (matched + self.significant.count) if matched else 0.0


class Round(_Verdict):
    """What a judge says of one answer: why, and a grade, 0..10."""

    reason: Annotated[str, Field(min_length=1)]
    grade: Annotated[int, Field(ge=0, le=10)]


class ConversationVerdict(_Verdict):
    """What a judge says of the answers of a conversation, in order."""

    rounds: Annotated[list[Round], Field(min_length=1)]

    @property
    def score(self) -> float:
        """Mean grade, as a share of the best, 0..1."""
        return sum(one.grade for one in self.rounds) / (10 * len(self.rounds))


def _show_report(item: JudgedReport) -> str:
    return canonical_json({"reference": item.reference, "candidate": item.candidate}, indent=1)


def _show_talk(item: JudgedConversation) -> str:
    return canonical_json(item.model_dump(exclude={"id", "source"}), indent=1)


def _talk_faults(item: JudgedConversation, verdict: ConversationVerdict) -> list[str]:
    graded, asked = len(verdict.rounds), len(item.rounds)
    return [] if graded == asked else [f"rounds: {graded} are graded, expected {asked}"]


GREEN_STEP = Step("green", JudgedReport, GreenVerdict, _show_report, lambda *_: [], prompts=PROMPTS)
CONVERSATION_STEP = Step(
    "conversation",
    JudgedConversation,
    ConversationVerdict,
    _show_talk,
    _talk_faults,
    prompts=PROMPTS,
)
