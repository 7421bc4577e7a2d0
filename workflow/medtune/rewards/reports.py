"""What a text is compared with, and what its length and repetitions leave of its worth."""

from medtune.metrics.text import tokens
from medtune.records.sample import Sample
from medtune.rewards.base import Judged

CONVERSATION = {"conversation", "grounded_conversation"}


REPORT = "report_generation"


# A text may be so many times as long as the reference, or as this many words, without penalty;
# with the second number nothing is left.
LONGER = (1.5, 3.0)


FEW_WORDS = 20


# The share of 4-grams that were said before: without penalty, and with which nothing is left.
REPEATED = (0.2, 0.6)


def reference(sample: Sample) -> str:
    """Return what should be said: the true report, or the last gold answer of a conversation."""
    if sample.task == REPORT:
        return sample.truth.get("report") or ""
    return (sample.target or "") if sample.task in CONVERSATION else ""


def has_reference(sample: Sample) -> bool:
    """Whether there is a text to compare an answer with."""
    return bool(tokens(reference(sample)))


def length_guard(judged: Judged) -> float:
    """What is left of a text's worth after its length and its repetitions, 0..1."""
    if judged.answer is None:
        return 0.0
    words = tokens(judged.answer.text)
    allowed = max(FEW_WORDS, len(tokens(reference(judged.sample))))
    grams = [tuple(words[start : start + 4]) for start in range(len(words) - 3)]
    repeated = 1 - len(set(grams)) / len(grams) if grams else 0.0
    return _left(len(words) / allowed, *LONGER) * _left(repeated, *REPEATED)


def _left(value: float, free: float, nothing: float) -> float:
    """Return 1 up to `free`, 0 from `nothing` on, and a line between them."""
    return min(1.0, max(0.0, (nothing - value) / (nothing - free)))
