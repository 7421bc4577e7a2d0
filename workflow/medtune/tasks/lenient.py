"""What a text answers if its form is forgiven: for figures beside the strict ones, never rewards.

Forgiven are reasoning before the answer, code fences, prose around it, a list of one object,
further keys, a comma too many, Python's quotes and None, and numbers written as 124.0 or "124".
What the answer states is not touched: a box outside the picture stays wrong, and a text that states
several different answers none.
"""

import ast
import json
import math
import re
from collections.abc import Iterator, Mapping
from typing import Any

REASONING = "think|thinking|thought|reason|reasoning|analysis|scratchpad"
CLOSING = re.compile(rf"</(?:{REASONING})>", re.IGNORECASE)
OPENING = re.compile(rf"<(?:{REASONING})>", re.IGNORECASE)
ANSWER = re.compile(r"<answer>(.*?)(?:</answer>|\Z)", re.DOTALL | re.IGNORECASE)
FENCE = re.compile(r"```[ \t]*\w*[ \t]*\n?(.*?)(?:```|\Z)", re.DOTALL)
OBJECT = re.compile(r"\{[^{}]*\}")
TRAILING_COMMA = re.compile(r",(\s*[}\]])")
MOST = 50  # objects of a text that are looked at


def after_reasoning(text: str) -> str:
    """Return what stands after the last closing tag of a reasoning, or inside `<answer>`.

    A reasoning that was begun and not closed has not come to an answer: nothing is left.
    """
    ends = [match.end() for match in CLOSING.finditer(text)]
    body = text[ends[-1] :] if ends else text
    opened = OPENING.search(body)
    if opened:
        body = body[: opened.start()]
    answers = ANSWER.findall(body)
    return str(answers[-1] if answers else body).strip()


def fenced(text: str) -> str | None:
    """Return the content of the code fence of a text, or None unless there is exactly one."""
    blocks = FENCE.findall(text)
    return str(blocks[0]).strip() if len(blocks) == 1 else None


def embedded(text: str) -> str | None:
    """Return the part of a text from its first brace, or bracket before it, to the last one."""
    match = re.search(r"\[?\s*\{.*\}\s*\]?", text, re.DOTALL)
    return TRAILING_COMMA.sub(r"\1", match[0].strip()) if match else None


def objects(text: str) -> Iterator[dict[str, Any]]:
    """Yield the flat objects of a text, as JSON or as Python writes them."""
    for match, _ in zip(OBJECT.finditer(text), range(MOST), strict=False):
        value = _value(TRAILING_COMMA.sub(r"\1", match[0]))
        if isinstance(value, dict) and all(isinstance(key, str) for key in value):
            yield value


def _value(text: str) -> Any:
    for read in (json.loads, ast.literal_eval):
        try:
            return read(text)
        except (ValueError, SyntaxError, TypeError, RecursionError, MemoryError):
            continue
    return None


def number(value: Any) -> Any:
    """Return a number that was written as text as a number, and 124.0 as 124; all else as it is."""
    if isinstance(value, list | tuple):
        return [number(one) for one in value]
    if isinstance(value, str):
        try:
            value = float(value)
        except ValueError:
            return value
    if isinstance(value, float) and math.isfinite(value) and value.is_integer():
        return int(value)
    return value


def canonical(value: Mapping[str, Any], keys: set[str]) -> str | None:
    """Return an object as strict JSON of exactly these keys, or None if one is missing."""
    if not keys <= value.keys():
        return None
    return json.dumps({key: number(value[key]) for key in sorted(keys)})
