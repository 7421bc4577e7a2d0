"""Reward terms of the chest-film tasks: all by rules, without a model.

    format          all tasks: 1 for a text that parses
    gleu            reports, and the last answer of a conversation: GLEU with what should be said
    labels          reports: F1 of the findings said to be there, and of their sides
    grounding       boxes, those in the last answer of a conversation too: soft F1 by the best
                    matching, which loose boxes and boxes too many lower
    classification  F1 of the labels named, over those that are known
    length_guard    as its weight is 0, a record of what `gleu` and `labels` were multiplied by

A term is asked only for samples it concerns (see `Term.concerns`), and pays nothing for an invalid
answer. A normal film must be called normal by a valid answer: silence is none.
"""

import re

from medtune.metrics.boxes import iou_matrix, soft_f1
from medtune.metrics.labeler import is_normal_report, read_labels
from medtune.metrics.labels import laterality_aware_f1, mark_hedged, set_f1
from medtune.metrics.text import gleu as gleu_of
from medtune.records.film import LabelState
from medtune.records.sample import Sample
from medtune.rewards.base import Judged, Term
from medtune.rewards.reports import CONVERSATION, REPORT, has_reference, length_guard, reference

GROUNDING = {
    *("anatomical_grounding", "abnormality_grounding", "phrase_grounding"),
    "abnormality_detection",
}
BOX = re.compile(r"<box>(\d+), (\d+), (\d+), (\d+)</box>")  # as in the texts of samples


def has_labels(sample: Sample) -> bool:
    """Whether a report is asked for of which labels are known."""
    return sample.task == REPORT and bool({*_labels(sample).values()} & {"present", "absent"})


def _labels(sample: Sample) -> dict[str, LabelState]:
    """Return the labels of a report's truth, without those that the report leaves open."""
    truth = sample.truth
    return mark_hedged(truth.get("labels", {}), read_labels(truth.get("report") or ""))


def has_boxes(sample: Sample) -> bool:
    """Whether boxes are asked for."""
    return sample.task in GROUNDING or bool(_told(sample))


def _told(sample: Sample) -> list[list[float]]:
    """Return the boxes in the last gold answer of a conversation."""
    found = BOX.findall(reference(sample)) if sample.task in CONVERSATION else []
    return [[float(edge) for edge in edges] for edges in found]


def has_classes(sample: Sample) -> bool:
    """Whether labels are asked for, and any is known."""
    known = sample.truth.get("present") or sample.truth.get("absent")
    return sample.task == "abnormality_classification" and bool(known)


def valid(judged: Judged) -> float:
    """1 for a text that parses strictly."""
    return float(judged.answer is not None)


def gleu(judged: Judged) -> float:
    """GLEU with the reference, guarded."""
    if judged.answer is None:
        return 0.0
    return length_guard(judged) * (gleu_of(judged.answer.text, reference(judged.sample)) or 0.0)


def labels(judged: Judged) -> float:
    """Agreement of findings and their sides (see `laterality_aware_f1`), guarded."""
    if judged.answer is None:
        return 0.0
    report = judged.sample.truth.get("report") or ""
    said, written = read_labels(judged.answer.text), read_labels(report)
    silent = not said and not is_normal_report(judged.answer.text)
    if silent and (written or is_normal_report(report)):
        return 0.0
    agreement = laterality_aware_f1(said, _labels(judged.sample), written)
    return length_guard(judged) * (agreement or 0.0)


def grounding(judged: Judged) -> float:
    """Soft F1 of the boxes (see `soft_f1`); on a film without findings 1 for no box, else 0."""
    if judged.answer is None:
        return 0.0
    truth, answer = judged.sample.truth, judged.answer
    if "findings" not in truth:
        boxes = _told(judged.sample) or truth["boxes"]
        return soft_f1(iou_matrix(answer.boxes, boxes)) or 0.0
    if not truth["findings"]:
        return float(not answer.boxes)
    boxes = [finding["box"] for finding in truth["findings"]]
    names = [finding["name"] for finding in truth["findings"]]
    return soft_f1(iou_matrix(answer.boxes, boxes, answer.names, names)) or 0.0


def classification(judged: Judged) -> float:
    """F1 of the labels over those that are known (see `set_f1`)."""
    if judged.answer is None:
        return 0.0
    truth = judged.sample.truth
    return set_f1(judged.answer.present, truth["present"], truth["absent"]) or 0.0


PRESETS: dict[str, list[Term]] = {
    "default": [
        Term("format", 0.1, valid),
        Term("gleu", 0.45, gleu, concerns=has_reference),
        Term("labels", 0.45, labels, concerns=has_labels),
        Term("grounding", 0.9, grounding, concerns=has_boxes),
        Term("classification", 0.9, classification, concerns=has_classes),
        Term("length_guard", 0.0, length_guard, concerns=has_reference),
    ],
}
