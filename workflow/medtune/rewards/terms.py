"""Curves and text checks that reward terms share. All return values in 0..1."""

import math
import re
from collections import Counter

TAGS = ("<think>", "</think>", "<answer>", "</answer>")
THINK = re.compile(r"<think>(.*)</think>\s*<answer>(.*)</answer>", re.DOTALL)


def stepped(error: float, steps: list[tuple[float, float]]) -> float:
    """Return the value of the first step whose bound is not exceeded (inclusive), else 0.

    Args:
        error: A non-negative error.
        steps: (bound, value) with rising bounds.
    """
    for bound, value in steps:
        if error <= bound:
            return value
    return 0.0


def decay(error: float, scale: float) -> float:
    """Return exp(-error / scale): 1 for no error, dense everywhere."""
    return math.exp(-error / scale)


def relative_error(value: float, truth: float) -> float:
    """Return |value - truth| / truth; for truth 0 it is 0 if equal and infinite otherwise."""
    if truth == 0:
        return 0.0 if value == 0 else math.inf
    return abs(value - truth) / truth


def thought(text: str) -> str | None:
    """Return the content of the think block of a strict think-then-answer text, or None."""
    match = THINK.fullmatch(text.strip())
    if not match or any(tag in match[1] + match[2] for tag in TAGS):
        return None
    return match[1].strip()


def repeats(text: str) -> bool:
    """Return whether two or more sentences of a text have been said before."""
    sentences = Counter(part.strip() for part in text.split(".") if part.strip())
    return sum(count - 1 for count in sentences.values()) >= 2
