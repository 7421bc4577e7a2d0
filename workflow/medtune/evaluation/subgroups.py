"""Groups of cases by the further columns of a user's table, as `meta["groups"]` of samples."""

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from medtune.records.sample import Sample

# Of the columns of scored rows that hold such groups.
PREFIX = "group_"
ABSENT = "not given"
MISSING = {"", "nan", "na", "n/a", "<na>", "null"}
# Numbers with more values than these are parted into thirds.
MOST_VALUES = 6
# Of fewer patients nothing is estimated.
FEWEST_PATIENTS = 5


def group_labels(samples: Iterable[Sample]) -> dict[str, dict[str, str]]:
    """Return the groups of samples: id -> `group_<name>` -> text, of every name that any has.

    A text is its group as it is written; a missing one is `ABSENT`. Where all texts of a name are
    numbers, of more than `MOST_VALUES` values, the groups are thirds of the samples.
    """
    given: dict[str, Mapping[str, str]] = {one.id: one.meta.get("groups", {}) for one in samples}
    columns = {
        name: _labels([_text(groups.get(name, "")) for groups in given.values()])
        for name in sorted({name for groups in given.values() for name in groups})
    }
    return {
        identity: {f"{PREFIX}{name}": labels[index] for name, labels in columns.items()}
        for index, identity in enumerate(given)
    }


def _labels(texts: Sequence[str]) -> list[str]:
    """Return the group of every text."""
    numbers = [_number(text) for text in texts]
    known = np.array([one for one in numbers if one is not None])
    filled = sum(bool(text) for text in texts)
    if len(known) < filled or len(set(known.tolist())) <= MOST_VALUES:
        return [text or ABSENT for text in texts]
    thirds = np.searchsorted(np.quantile(known, [1 / 3, 2 / 3]), known)
    spans = {
        int(third): f"{third + 1}/3: {own.min():g} to {own.max():g}"
        for third in np.unique(thirds)
        for own in [known[thirds == third]]
    }
    names = iter([spans[int(third)] for third in thirds])
    return [ABSENT if number is None else next(names) for number in numbers]


def _text(text: str) -> str:
    """Return a text; nothing for what programs write of a missing value."""
    return "" if text.strip().casefold() in MISSING else text.strip()


def _number(text: str) -> float | None:
    """Return a finite number that a text is, with a decimal point or comma, or None."""
    try:
        value = float(re.sub(r"^(-?\d+),(\d+)$", r"\1.\2", text))
    except ValueError:
        return None
    return value if math.isfinite(value) else None


def small_groups(
    groups: Mapping[str, Sequence[str]], patients: Sequence[str]
) -> dict[str, dict[str, int]]:
    """Return the numbers of patients of groups that have too few of them, by kind and group.

    Args:
        groups: Kind -> group of every case.
        patients: Patient of every case.
    """
    found: dict[str, dict[str, int]] = {}
    for kind, values in groups.items():
        members: dict[str, Any] = {value: set() for value in sorted(set(values))}
        for value, patient in zip(values, patients, strict=True):
            members[value].add(patient)
        few = {v: len(own) for v, own in members.items() if len(own) < FEWEST_PATIENTS}
        if few:
            found[kind] = few
    return found
