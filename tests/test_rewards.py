"""Rewards by hand, and texts that must never pay."""

import json

import pytest
from test_task import GEOMETRY

from medtune.models.dialect import PIXELS
from medtune.rewards.base import Term, reward
from medtune.rewards.terms import relative_error, repeats, stepped, thought
from medtune.rewards.tumor_detection import PRESETS
from medtune.schema import Media, Sample
from medtune.sections import TaskConfig
from medtune.tasks import get_task

BOX = [10, 20, 3, 30, 40, 9]


def sample(box=tuple(BOX), peak=5, ratio=0.05) -> Sample:
    media = Media(kind="video", path="a.mp4", width=256, height=64, frames=16, fps=2, sha256="")
    return Sample(
        id="s/c/t",
        source="s",
        case_id="c",
        patient_id="p",
        split="train",
        task="tumor_detection_3d",
        media=[media],
        prompt="Locate the whole tumor.",
        target=None,
        truth={"bbox_3d": list(box) if box else None, "peak_slice": peak, "tumor_ratio": ratio},
        geometry=GEOMETRY.model_dump(mode="json"),
        meta={},
    )


HEALTHY = sample(None, None, 0.0)


def text_of(box=BOX, peak=5, ratio=0.05, think=None) -> str:
    body = json.dumps({"bbox_3d": box, "peak_slice": peak, "tumor_ratio": ratio})
    return body if think is None else f"<think>{think}</think><answer>{body}</answer>"


def pay(text: str, preset: str, case: Sample | None = None) -> tuple[float, dict[str, float]]:
    """Return (points, terms): the published presets count in points out of 8.5."""
    task = get_task(TaskConfig(reasoning=preset != "default"))
    terms = task.terms(preset, {})
    share, values = reward(terms, task.judge(text, case or sample(), PIXELS))
    return share * sum(term.weight for term in terms), values


SHOWN = "This video shows a brain MRI"


@pytest.mark.parametrize("preset", ["published_8_5_stepped", "published_8_5_smooth"])
def test_published_weights_sum_to_8_5_and_a_perfect_answer_earns_them(preset):
    assert sum(term.weight for term in PRESETS[preset]) == pytest.approx(8.5)
    assert pay(text_of(think=SHOWN), preset)[0] == pytest.approx(8.5)
    healthy = text_of(None, None, 0, think=SHOWN)
    assert pay(healthy, preset, HEALTHY)[0] == pytest.approx(8.5)


# A box moved along x by d of 20 has IoU (20 - d) / (20 + d).
@pytest.mark.parametrize(
    ("move", "stepped_points", "smooth_points"),
    [
        (0, 3.0, 3.0),
        (3, 3.0, 3 * (0.3 + 0.7 * 17 / 23)),  # IoU 0.739
        (5, 2.0, 3 * (0.3 + 0.7 * 15 / 25)),  # 0.6
        (10, 1.0, 3 * (0.3 + 0.7 * 10 / 30)),  # 0.333
        (15, 0.0, 3 * (0.3 + 0.7 * 5 / 35)),  # 0.143
        (20, 0.0, 3 * 0.1),  # touching
    ],
)
def test_published_iou_by_hand(move, stepped_points, smooth_points):
    text = text_of([10 + move, 20, 3, 30 + move, 40, 9], think=SHOWN)
    for preset, points in (("stepped", stepped_points), ("smooth", smooth_points)):
        total, terms = pay(text, f"published_8_5_{preset}")
        assert 3 * terms["iou"] == pytest.approx(points)
        assert total == pytest.approx(5.5 + points)


@pytest.mark.parametrize(
    ("peak", "points"), [(5, 1.5), (8, 1.5), (9, 1.05), (10, 1.05), (11, 0.45), (15, 0.45)]
)
def test_published_peak_by_hand(peak, points):
    assert 1.5 * pay(text_of(peak=peak, think=SHOWN), "published_8_5_smooth")[1][
        "peak_slice"
    ] == pytest.approx(points)


@pytest.mark.parametrize(
    ("ratio", "points"), [(0.05, 1.5), (0.0545, 1.5), (0.058, 1.05), (0.064, 0.45), (0.066, 0.0)]
)
def test_published_ratio_by_hand(ratio, points):
    assert 1.5 * pay(text_of(ratio=ratio, think=SHOWN), "published_8_5_stepped")[1][
        "tumor_ratio"
    ] == pytest.approx(points)


def test_published_format_terms_by_hand():
    no_keyword = pay(text_of(think="The lesion is bright"), "published_8_5_smooth")
    assert no_keyword[0] == pytest.approx(8.0)
    repeated = ". ".join([SHOWN] * 5)
    assert pay(text_of(think=repeated), "published_8_5_smooth")[0] == pytest.approx(8.0)
    only_format = pay(f"<think>{SHOWN}</think><answer>none</answer>", "published_8_5_smooth")
    assert only_format[0] == pytest.approx(1.0)  # the two tags terms, and nothing else


def test_default_reward_by_hand():
    total, terms = pay(text_of(), "default")
    assert total == pytest.approx(1.0)
    assert set(terms.values()) == {1.0}
    moved = pay(text_of([20, 20, 3, 40, 40, 9], peak=7, ratio=0.04), "default")[1]
    assert moved["iou"] == pytest.approx(1 / 3)
    assert moved["centre"] == pytest.approx(2.718281828**-0.5)  # 10 pixels of 1 mm
    assert moved["peak_slice"] == pytest.approx(2.718281828**-1)  # 2 of 6 slices, times 3
    assert moved["tumor_ratio"] == pytest.approx(0.8)


def hacks(preset: str) -> dict[str, str]:
    think = None if preset == "default" else SHOWN
    padding = " ".join(["This region is carefully examined."] * 60)
    return {
        "empty": "",
        "babble": "a " * 1200,
        "nan": text_of(think=think).replace("10, 20, 3, 30, 40, 9", ", ".join(["NaN"] * 6)),
        "infinity": text_of(think=think).replace("0.05", "Infinity"),
        "whole volume": text_of([0, 0, 0, 64, 64, 16], 8, 1.0, think),
        "copied schema": SCHEMA
        if think is None
        else f"<think>{SHOWN}</think><answer>{SCHEMA}</answer>",
        "copied example": text_of([91, 33, 102, 131, 84, 150], 124, 0.022, think),
        "constant elsewhere": text_of([40, 2, 12, 60, 18, 15], 13, 0.02, think),
        "repetition": " ".join([text_of(think=think)] * 5),
        "padding": f"<think>{SHOWN} {padding}</think>",
        "list of boxes": f"[{text_of()}, {text_of()}]",
        "no tumour": text_of(None, None, 0, think),
        "keyword stuffing": " ".join([SHOWN] * 50),
    }


SCHEMA = '{"bbox_3d": [x1, y1, z1, x2, y2, z2], "peak_slice": z, "tumor_ratio": r}'


@pytest.mark.parametrize("preset", PRESETS)
def test_hacks_score_below_a_fair_answer(preset):
    # Fair: IoU 0.43, two slices off, ratio 15 % off.
    think = None if preset == "default" else SHOWN
    fair = pay(text_of([18, 20, 3, 38, 40, 9], 7, 0.0575, think), preset)[0]
    for name, text in hacks(preset).items():
        assert pay(text, preset)[0] < 0.75 * fair, name
    invented = pay(text_of(think=think), preset, HEALTHY)[0]
    assert invented < 0.75 * fair, "a tumour where there is none"


@pytest.mark.parametrize("preset", PRESETS)
def test_silence_earns_nothing(preset):
    assert pay("", preset)[0] == 0
    assert pay("", preset, HEALTHY)[0] == 0


def test_a_term_outside_0_to_1_is_a_bug_and_stops():
    task = get_task(TaskConfig())
    judged = task.judge(text_of(), sample(), PIXELS)
    for value in (1.5, -0.1, float("nan")):
        with pytest.raises(ValueError, match="reward term bad"):
            reward([Term("bad", 1.0, lambda _, v=value: v)], judged)


def test_shared_curves():
    steps = [(3.0, 1.0), (5.0, 0.7)]
    assert [stepped(e, steps) for e in (0, 3, 3.1, 5, 6)] == [1, 1, 0.7, 0.7, 0]
    assert relative_error(0, 0) == 0
    assert relative_error(0.1, 0) == float("inf")
    assert thought("<think>a</think>\n<answer>b</answer>") == "a"
    assert thought("x<think>a</think><answer>b</answer>") is None
    assert thought("<think>a</think>b</think><answer>c</answer>") is None
    assert not repeats("a. b. c. a.")
    assert repeats("a. a. a.")
