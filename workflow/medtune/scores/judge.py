"""Verdicts of a language model on reports and conversations: their form, prompts and scores.

Who is asked is not decided here: `ask` takes messages and returns the text of the reply. The texts
that are judged come from reports, so it must be allowed to see them.

GREEN here has the score of Ostmeier et al. ("GREEN", EMNLP findings 2024), but a prompt of our own
for any model: its figures are not to be compared with those of the published GREEN model.
"""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from medtune.errors import MedtuneError
from medtune.files import canonical_json, sha256

Message = dict[str, str]
Ask = Callable[[list[Message]], str]
Verdict = TypeVar("Verdict", bound="_Strict")
PROMPTS = Path(__file__).parent / "prompts"
ATTEMPTS = 3


class JudgeError(MedtuneError):
    """A judge gave no verdict."""


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class Errors(_Strict):
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


class GreenVerdict(_Strict):
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


class Round(_Strict):
    """What a judge says of one answer: why, and a grade, 0..10."""

    reason: Annotated[str, Field(min_length=1)]
    grade: Annotated[int, Field(ge=0, le=10)]


class ConversationVerdict(_Strict):
    """What a judge says of the answers of a conversation, in order."""

    rounds: Annotated[list[Round], Field(min_length=1)]

    @property
    def score(self) -> float:
        """Mean grade, as a share of the best, 0..1."""
        return sum(one.grade for one in self.rounds) / (10 * len(self.rounds))

    @model_validator(mode="after")
    def _as_many_as_asked(self, info: Any) -> "ConversationVerdict":
        expected = (info.context or {}).get("rounds", len(self.rounds))
        if len(self.rounds) != expected:
            raise ValueError(f"{len(self.rounds)} rounds are graded, expected {expected}")
        return self


class Exchange(_Strict):
    """A round of a conversation: what was asked, what is right, and what was answered."""

    question: str
    expected: str
    answered: str


def read_prompt(name: Literal["green", "conversation"]) -> tuple[str, str]:
    """Return a prompt and its SHA-256, which is its version."""
    path = PROMPTS / f"{name}.md"
    return path.read_text(encoding="utf-8"), sha256(path)


def judge_report(ask: Ask, text: str, reference: str) -> GreenVerdict | None:
    """Return the verdict on a report; None if one of both is empty: there is nothing to ask.

    Args:
        ask: Asks the judge.
        text: The report that is judged.
        reference: The true report.

    Raises:
        JudgeError: No reply is a verdict.
    """
    if not text.strip() or not reference.strip():
        return None
    shown = canonical_json({"reference": reference, "candidate": text}, indent=1)
    return _verdict(ask, read_prompt("green")[0], shown, GreenVerdict, {})


def judge_conversation(
    ask: Ask, known: dict[str, Any], rounds: Sequence[Exchange]
) -> ConversationVerdict:
    """Return the verdict on the answers of a conversation.

    Args:
        ask: Asks the judge.
        known: What is true of the film, as in `Sample.truth`.
        rounds: The conversation.

    Raises:
        JudgeError: No reply is a verdict on every round.
    """
    content = {"known": known, "rounds": [one.model_dump() for one in rounds]}
    context = {"rounds": len(rounds)}
    prompt = read_prompt("conversation")[0]
    shown = canonical_json(content, indent=1)
    return _verdict(ask, prompt, shown, ConversationVerdict, context)


def _verdict(
    ask: Ask, prompt: str, shown: str, kind: type[Verdict], context: dict[str, Any]
) -> Verdict:
    """Return the verdict; a reply that is none is sent back with what is wrong with it."""
    messages = [{"role": "system", "content": prompt}, {"role": "user", "content": shown}]
    fault = ""
    for _ in range(ATTEMPTS):
        reply = ask(messages)
        try:
            return kind.model_validate(_object(reply), context=context)
        except ValueError as error:
            fault = _words(error)
        again = f"That reply cannot be used: {fault}. Give the whole JSON object."
        messages = [
            *messages,
            {"role": "assistant", "content": reply},
            {"role": "user", "content": again},
        ]
    raise JudgeError("judge", f"gave no verdict in {ATTEMPTS} replies ({fault})", "use another")


def _object(reply: str) -> Any:
    """Return the JSON object in a reply; words and fences around it do not matter.

    Raises:
        ValueError: There is none.
    """
    start, end = reply.find("{"), reply.rfind("}")
    if start < 0 or end < start:
        raise ValueError("it holds no JSON object")
    return json.loads(reply[start : end + 1])


def _words(error: ValueError) -> str:
    """Return what is wrong with a reply, in one line."""
    if not isinstance(error, ValidationError):
        return str(error)
    faults = [(".".join(map(str, one["loc"])), one["msg"]) for one in error.errors()]
    return "; ".join(f"{where}: {what}" if where else what for where, what in faults)
