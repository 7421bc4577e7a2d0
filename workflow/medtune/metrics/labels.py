"""Agreement of labels: F1 of one answer and of a data set.

Positive is what is said to be present, and nothing else: a label that is denied or doubted is no
positive. What is uncertain in the truth counts for nobody. Whether a label that the truth does not
mention is negative or unknown, the caller says by `known`.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from medtune.metrics.labeler import Finding
from medtune.records.film import LabelState
from medtune.sources.chest.labels import LABELS

Counts = NDArray[np.int64]
HALF_A_SIDE = 0.5  # for a finding whose side is not told


def count(
    answered: Collection[str], truth: Mapping[str, LabelState], known: Collection[str]
) -> Counts:
    """Return true positives, false positives and false negatives of every label: (labels, 3).

    They can be added over answers, and over resampled answers: see `f1`.

    Args:
        answered: Labels that the answer says are present.
        truth: What is true of labels; a known label that is missing is absent.
        known: Labels that are judged; those that are uncertain in the truth are not.
    """
    rows = []
    for label in LABELS:
        judged = label in known and truth.get(label) != "uncertain"
        said, true = label in answered, truth.get(label) == "present"
        rows.append(
            [judged and said and true, judged and said and not true, judged and true and not said]
        )
    return np.array(rows, dtype=np.int64)


def f1(counts: Counts) -> dict[str, float | None]:
    """Return F1 of a data set: `micro`, `macro` and of every label, 2 TP / (2 TP + FP + FN).

    `macro` is the mean over the labels that are true or answered anywhere; F1 of the others, and
    all of a data set without any, is None.

    Args:
        counts: Sum of `count` over the answers (labels, 3).
    """
    by_label = {label: _f1(*row) for label, row in zip(LABELS, counts.tolist(), strict=True)}
    given = [value for value in by_label.values() if value is not None]
    macro = sum(given) / len(given) if given else None
    return {"micro": _f1(*counts.sum(axis=0).tolist()), "macro": macro} | by_label


def _f1(hits: float, false: float, missed: float) -> float | None:
    whole = 2 * hits + false + missed
    return 2 * hits / whole if whole else None


def laterality_aware_f1(
    answered: Mapping[str, Finding],
    truth: Mapping[str, LabelState],
    written: Mapping[str, Finding],
) -> float | None:
    """Return how well the findings of a report agree with what is true, 0..1.

    With a label that is present: F1 of the present labels. One on the wrong side is no hit; one
    whose side is true in part, or not told, counts by half (Jaccard index of the sides).
    With absent labels alone: F1 of those that the true report denies, in which every finding that
    is made up is false; a list of denials earns no more than that report. If it denies none ("no
    acute process"), 1 for an answer that neither has nor doubts a finding, else 0.
    Otherwise None: nothing is known.

    Args:
        answered: What the answer says.
        truth: What is true; a label that is missing is absent.
        written: What the true report says.
    """
    present, absent = _with(truth, "present"), _with(truth, "absent")
    said = _said(answered, "present") - _with(truth, "uncertain")
    if present:
        hits = sum(_side_share(answered[label], written.get(label)) for label in said & present)
        return 2 * hits / (len(said) + len(present))
    if not absent:
        return None
    expected = absent & _said(written, "absent")
    if not expected:
        return float(not said and not _said(answered, "uncertain") - _with(truth, "uncertain"))
    denied = expected & _said(answered, "absent")
    return _f1(len(denied), len(said), len(expected - denied))


def mark_hedged(
    labels: Mapping[str, LabelState], written: Mapping[str, Finding]
) -> dict[str, LabelState]:
    """Return labels, of which those are uncertain that the true report leaves open.

    A policy may call them present or absent; but who writes what the report says must not be
    wrong, and be certain where it is not must not pay.

    Args:
        labels: Of the source, after its policy.
        written: What the true report says.
    """
    open_ones: set[str] = _said(written, "uncertain")
    return dict(labels) | dict.fromkeys(open_ones, "uncertain")


def _with(truth: Mapping[str, LabelState], status: LabelState) -> set[str]:
    return {label for label, one in truth.items() if one == status}


def _said(findings: Mapping[str, Finding], status: LabelState) -> set[str]:
    return {label for label, one in findings.items() if one.status == status}


def _side_share(answered: Finding, truth: Finding | None) -> float:
    """Return what the side of a finding is worth: 1 where the truth tells none."""
    if truth is None or truth.status != "present" or not truth.sides:
        return 1.0
    if not answered.sides:
        return HALF_A_SIDE
    return len(answered.sides & truth.sides) / len(answered.sides | truth.sides)


def set_f1(
    answered: Collection[str], present: Collection[str], absent: Collection[str]
) -> float | None:
    """Return F1 of a list of labels over those that are known; None if none is.

    A normal film, on which nothing is present, is right (1) if no label known to be absent is
    answered, else wrong (0).

    Args:
        answered: Labels that the answer says are present.
        present: Labels that are.
        absent: Labels that are not; the others are unknown and not judged.
    """
    hits, false = len({*answered} & {*present}), len({*answered} & {*absent})
    if not present:
        return float(not false) if absent else None
    return _f1(hits, false, len({*present} - {*answered}))


def total(counts: Iterable[Counts]) -> Counts:
    """Return the sum of counts: those of a data set."""
    whole = np.zeros((len(LABELS), 3), dtype=np.int64)
    for one in counts:
        whole += one
    return whole


def auroc(scores: Sequence[float], truth: Sequence[bool]) -> float | None:
    """Return the area under the receiver operating characteristic of one label.

    It is the share of pairs, one with and one without the label, that are in the right order, ties
    counted by half (Hanley & McNeil, Radiology 143, 1982).

    Args:
        scores: How sure an answer is of the label, such as the share of draws that name it.
        truth: Whether it is present.

    Returns:
        None if all cases or none have the label.
    """
    from scipy.stats import rankdata

    chosen, positives = np.asarray(truth, dtype=bool), int(sum(truth))
    negatives = len(chosen) - positives
    if not positives or not negatives:
        return None
    above = rankdata(scores)[chosen].sum() - positives * (positives + 1) / 2
    return float(above / (positives * negatives))
