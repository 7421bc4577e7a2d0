"""Why answers fail: how many are invalid and for which reasons, and how many are cut off."""

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from statistics import fmean
from typing import Any

from medtune.runtime.files import sha256_text

REASONS = 3
EVERY = 100  # of so many texts, one is shown
MOST_TEXTS = 10
LONGEST = 120  # characters of a reason
# What differs between answers that fail alike: what stands in brackets or quotes, and numbers.
PARTICULAR = re.compile(r"\[[^\]]*\]?|'[^']*'?|\"[^\"]*\"?|[+-]?\d+(?:\.\d+)?(?:e[+-]?\d+)?")


def alike(reason: str) -> str:
    """Return a reason without what is particular to one answer."""
    return PARTICULAR.sub("…", reason)[:LONGEST]


def failures(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return how greedy answers of a model fail.

    Args:
        rows: Scored rows of one model.

    Returns:
        `answers`, their number; the shares `invalid` and `cut_off` (at `max_new_tokens`);
        `readable`, the share of invalid ones that state an answer if their form is forgiven, None
        without any; `reasons`, the commonest, with the share of all answers that each spoils.
    """
    greedy = [row for row in rows if row["mode"] == "greedy"]
    reasons = Counter(alike(row["reason"]) for row in greedy if row["reason"] is not None)
    commonest = sorted(reasons.items(), key=lambda item: (-item[1], item[0]))[:REASONS]
    return {
        "answers": len(greedy),
        "invalid": sum(reasons.values()) / len(greedy),
        "readable": _share(row["readable"] for row in greedy if row["reason"] is not None),
        "cut_off": fmean(not row["ended"] for row in greedy),
        "reasons": [{"reason": text, "share": n / len(greedy)} for text, n in commonest],
    }


def _share(values: Iterable[float]) -> float | None:
    known = list(values)
    return fmean(known) if known else None


def some_texts(rows: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Return one answer in a hundred, one at least and ten at most: of invalid ones if any are.

    Which ones follows from their ids.
    """
    chosen = [row for row in rows if row["reason"] is not None] or list(rows)
    ranked = sorted(chosen, key=lambda row: sha256_text(f"text/{row['id']}"))
    return ranked[: min(max(1, len(chosen) // EVERY), MOST_TEXTS)]
