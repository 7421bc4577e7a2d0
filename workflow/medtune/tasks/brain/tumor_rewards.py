"""Reward presets of `tumor_detection_3d`.

`default` is medtune's. The others are the history of the reward of a published brain-tumor GRPO
system (github.com/SCBoy1007/video-learning), named after its maximum in points:

    published_5_5           4878976   answer terms alone
    published_6_5           dcff9ab   and a think block
    published_7_5           690ae73   that begins with a keyword
    published_9_0           e5a08d4   the box counts double, form half
    published_8_5_stepped   6b6be09   without completeness; as its README documents it
    published_8_5_smooth    6b6be09   the same, as its code computes it: a smooth IoU
    published_10_0          3e9a1ea   without non_repeat; the box counts half of all
    published_10_5          3727571   a long think block; no keyword, no pay for the task terms
    published_4_5           c74b778   the same with task terms of weight 1, graded by length

All pay the published amount for every valid answer, also where its object stands in a list of one,
the form that the published prompts show (`default` does not accept it). They differ from the
original where it paid for nothing: answers are parsed strictly (the original searched the text and
paid full IoU for NaN), terms that judge an answer pay only valid ones, and `non_repeat` no longer
pays for silence. Where a text has no think block the original judged its answer all the same; here
it is invalid wherever `task.chain_of_thought` asks for one.
"""

from collections.abc import Callable
from dataclasses import replace

from medtune.geometry.volume import Geometry, box_iou, center_distance_mm
from medtune.rewards.base import Judged, Term
from medtune.rewards.terms import decay, relative_error, repeats, stepped, thought

CENTER_SCALE_MM = 20.0
PEAK_STEPS = [(3.0, 1.0), (5.0, 0.7), (10.0, 0.3)]
RATIO_STEPS = [(0.1, 1.0), (0.2, 0.7), (0.3, 0.3)]
LENGTH_STEPS = [(200, 1.0), (150, 0.8), (100, 0.6), (50, 0.3)]
KEYWORD = "this video shows"


def _agreement(judged: Judged) -> float | None:
    """Return 1 or 0 where no box can be compared, or None where truth and answer have one.

    Invalid: 0. No tumor, and none answered: 1. Only one of the two has a tumor: 0.
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


def center(judged: Judged) -> float:
    """exp(-d / 20 mm) of the distance between the centers: a signal where boxes do not touch."""
    agreement = _agreement(judged)
    if agreement is not None:
        return agreement
    geometry = Geometry.model_validate(judged.sample.geometry)
    truth = tuple(judged.sample.truth["bbox_3d"])
    return decay(center_distance_mm(judged.answer.box, truth, geometry), CENTER_SCALE_MM)


def peak(judged: Judged) -> float:
    """exp(-3 e) of the peak slice's error e in extents of the tumor along z."""
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


def _reasoning_length(text: str) -> int:
    """Return the characters of the think block; 0 if there is none or if it holds JSON."""
    reasoning = thought(text) or ""
    return 0 if reasoning.startswith(("[", "{")) else len(reasoning)


def thinking_long(judged: Judged) -> float:
    """1 for a think block of 50 characters that is no JSON."""
    return float(_reasoning_length(judged.text) >= 50)


def thinking_graded(judged: Judged) -> float:
    """0.3, 0.6, 0.8, 1 for a think block of 50, 100, 150, 200 characters that is no JSON."""
    length = _reasoning_length(judged.text)
    return next((value for least, value in LENGTH_STEPS if length >= least), 0.0)


def video_keyword(judged: Judged) -> float:
    """1 if the reasoning begins with "This video shows"."""
    return float((thought(judged.text) or "").lower().startswith(KEYWORD))


def gated(score: Callable[[Judged], float]) -> Callable[[Judged], float]:
    """Return a term that is 0 where the reasoning does not begin with the keyword."""
    return lambda judged: video_keyword(judged) and score(judged)


def non_repeat(judged: Judged) -> float:
    """1 for a valid answer in which fewer than two sentences are repeated."""
    return float(judged.answer is not None and not repeats(judged.text))


SCORES: dict[str, Callable[[Judged], float]] = {
    "thinking_format": thinking_format,
    "video_keyword": video_keyword,
    "format": valid,
    "iou": iou_stepped,
    "peak_slice": peak_stepped,
    "tumor_ratio": ratio_stepped,
    "completeness": valid,  # all keys are there: the same, twice
    "non_repeat": non_repeat,
}
SMOOTH = {"iou": iou_smooth}
GATED = {name: gated((SCORES | SMOOTH)[name]) for name in ("iou", "peak_slice", "tumor_ratio")}


def accepting_list(score: Callable[[Judged], float]) -> Callable[[Judged], float]:
    """Return a term that also accepts the published form of an answer: a list of one object."""
    return lambda judged: score(
        judged if judged.listed is None else replace(judged, answer=judged.listed)
    )


def _published(points: str, **changed: Callable[[Judged], float]) -> list[Term]:
    """Return the terms of a published reward.

    Args:
        points: The weights in the order of `SCORES`; "-" where a term is missing.
        **changed: Terms that score otherwise than in `SCORES`.
    """
    weights = zip(SCORES, points.split(), strict=True)
    scores = SCORES | changed
    return [Term(name, float(w), accepting_list(scores[name])) for name, w in weights if w != "-"]


PRESETS: dict[str, list[Term]] = {
    "default": [
        Term("valid", 0.1, valid),
        Term("iou", 0.5, iou),
        Term("center", 0.1, center),
        Term("peak_slice", 0.15, peak),
        Term("tumor_ratio", 0.15, ratio),
    ],
    # think, keyword, format, IoU, peak, ratio, completeness, non_repeat
    "published_5_5": _published("-   -   1.0 1.5 1.0 1.0 0.5 0.5"),
    "published_6_5": _published("1.0 -   1.0 1.5 1.0 1.0 0.5 0.5"),
    "published_7_5": _published("1.0 1.0 1.0 1.5 1.0 1.0 0.5 0.5"),
    "published_9_0": _published("0.5 0.5 1.0 3.0 1.5 1.5 0.5 0.5"),
    "published_8_5_stepped": _published("0.5 0.5 1.0 3.0 1.5 1.5 - 0.5"),
    "published_8_5_smooth": _published("0.5 0.5 1.0 3.0 1.5 1.5 - 0.5", **SMOOTH),
    "published_10_0": _published("0.3 0.2 0.5 5.0 2.0 2.0 - -", **SMOOTH),
    "published_10_5": _published(
        "0.5 0.5 0.5 5.0 2.0 2.0 - -", thinking_format=thinking_long, **GATED
    ),
    "published_4_5": _published(
        "0.5 0.5 0.5 1.0 1.0 1.0 - -", thinking_format=thinking_graded, **GATED
    ),
}
