"""Reward presets of `tumor_detection_3d`.

`default` is medtune's. `published_8_5_stepped` and `published_8_5_smooth` are the 8.5-point
reward of a published brain-tumour GRPO system (github.com/SCBoy1007/video-learning, commit
6b6be09): the first as its README documents it, the second as its code computes it. Both pay the
published amount for every valid answer. They differ from the original where it paid for nothing:
answers are parsed strictly (the original paid full IoU for NaN), terms that judge an answer pay
only valid ones, and `non_repeat` no longer pays for silence.
"""

from medtune.geometry import Geometry, box_iou, centre_distance_mm
from medtune.rewards.base import Judged, Term
from medtune.rewards.terms import decay, relative_error, repeats, stepped, thought

CENTRE_SCALE_MM = 20.0
PEAK_STEPS = [(3.0, 1.0), (5.0, 0.7), (10.0, 0.3)]
RATIO_STEPS = [(0.1, 1.0), (0.2, 0.7), (0.3, 0.3)]
KEYWORD = "this video shows"


def _agreement(judged: Judged) -> float | None:
    """Return 1 or 0 where no box can be compared, or None where truth and answer have one.

    Invalid: 0. No tumour, and none answered: 1. Only one of the two has a tumour: 0.
    """
    if judged.answer is None:
        return 0.0
    absent, none_answered = judged.sample.truth["bbox_3d"] is None, judged.answer.box is None
    if absent or none_answered:
        return float(absent and none_answered)
    return None


def _iou(judged: Judged) -> float:
    return box_iou(judged.answer.box, tuple(judged.sample.truth["bbox_3d"]))


def valid(judged: Judged) -> float:
    """1 for a text that parses strictly."""
    return float(judged.answer is not None)


def iou(judged: Judged) -> float:
    """The 3-D intersection over union."""
    agreement = _agreement(judged)
    return _iou(judged) if agreement is None else agreement


def iou_stepped(judged: Judged) -> float:
    """3, 2, 1 or 0 thirds for an IoU above 0.7, 0.5, 0.3 (as documented)."""
    value = iou(judged)
    return 1.0 if value > 0.7 else 2 / 3 if value > 0.5 else 1 / 3 if value > 0.3 else 0.0


def iou_smooth(judged: Judged) -> float:
    """0.1 for a box, 0.2 more for any overlap, 0.7 x IoU (as shipped)."""
    agreement = _agreement(judged)
    if agreement is not None:
        return agreement
    value = _iou(judged)
    return min(1.0, 0.1 + 0.2 * (value > 0) + 0.7 * value)


def centre(judged: Judged) -> float:
    """exp(-d / 20 mm) of the distance between the centres: a signal where boxes do not touch."""
    agreement = _agreement(judged)
    if agreement is not None:
        return agreement
    geometry = Geometry.model_validate(judged.sample.geometry)
    truth = tuple(judged.sample.truth["bbox_3d"])
    return decay(centre_distance_mm(judged.answer.box, truth, geometry), CENTRE_SCALE_MM)


def peak(judged: Judged) -> float:
    """exp(-3 e) of the peak slice's error e in extents of the tumour along z."""
    agreement = _agreement(judged)
    if agreement is not None:
        return agreement
    truth = judged.sample.truth
    extent = truth["bbox_3d"][5] - truth["bbox_3d"][2]
    return decay(abs(judged.answer.peak - truth["peak_slice"]), extent / 3)


def peak_stepped(judged: Judged) -> float:
    """1, 0.7, 0.3 for a peak slice within 3, 5, 10 frames."""
    agreement = _agreement(judged)
    if agreement is not None:
        return agreement
    return stepped(abs(judged.answer.peak - judged.sample.truth["peak_slice"]), PEAK_STEPS)


def ratio(judged: Judged) -> float:
    """1 minus the relative error of the ratio, at least 0."""
    agreement = _agreement(judged)
    if agreement is not None:
        return agreement
    error = relative_error(judged.answer.ratio, judged.sample.truth["tumor_ratio"])
    return max(0.0, 1.0 - error)


def ratio_stepped(judged: Judged) -> float:
    """1, 0.7, 0.3 for a ratio within 10, 20, 30 percent."""
    agreement = _agreement(judged)
    if agreement is not None:
        return agreement
    error = relative_error(judged.answer.ratio, judged.sample.truth["tumor_ratio"])
    return stepped(error, RATIO_STEPS)


def thinking_format(judged: Judged) -> float:
    """1 for exactly a think block, then an answer block."""
    return float(thought(judged.text) is not None)


def video_keyword(judged: Judged) -> float:
    """1 if the reasoning begins with "This video shows"."""
    return float((thought(judged.text) or "").lower().startswith(KEYWORD))


def non_repeat(judged: Judged) -> float:
    """1 for a valid answer in which fewer than two sentences are repeated."""
    return float(judged.answer is not None and not repeats(judged.text))


def _published(iou_term: Term) -> list[Term]:
    return [
        Term("thinking_format", 0.5, thinking_format),
        Term("video_keyword", 0.5, video_keyword),
        Term("format", 1.0, valid),
        iou_term,
        Term("peak_slice", 1.5, peak_stepped),
        Term("tumor_ratio", 1.5, ratio_stepped),
        Term("non_repeat", 0.5, non_repeat),
    ]


PRESETS: dict[str, list[Term]] = {
    "default": [
        Term("valid", 0.1, valid),
        Term("iou", 0.5, iou),
        Term("centre", 0.1, centre),
        Term("peak_slice", 0.15, peak),
        Term("tumor_ratio", 0.15, ratio),
    ],
    "published_8_5_stepped": _published(Term("iou", 3.0, iou_stepped)),
    "published_8_5_smooth": _published(Term("iou", 3.0, iou_smooth)),
}
