"""Rewards by hand, and texts that must never pay."""

import json

import pytest
from test_task import GEOMETRY

from medtune.config.data import TaskConfig
from medtune.config.training import RewardConfig
from medtune.models.coordinate_format import PIXELS
from medtune.records.sample import Media, Sample
from medtune.rewards.base import score_all
from medtune.rewards.terms import relative_error, repeats, stepped, thought
from medtune.tasks import get_task
from medtune.tasks.brain.tumor_rewards import PRESETS

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


def reasons(preset: str) -> bool:
    return RewardConfig(preset=preset).pays_reasoning


def pay(text: str, preset: str, case: Sample | None = None) -> tuple[float, dict[str, float]]:
    """Return (points, terms): the published presets count in points out of their maximum."""
    task = get_task(TaskConfig(chain_of_thought=reasons(preset)))
    terms = task.terms(preset, {})
    [(share, values)] = score_all(terms, [task.judge(text, case or sample(), PIXELS)])
    return share * sum(term.weight for term in terms), values


SHOWN = "This video shows a brain MRI"
LONG = (  # over 200 characters
    SHOWN
    + " with a bright mass on the left side. It spans the frames three to nine and is largest "
    "in the middle of them. Its rim is sharp below and blurred above, where the oedema reaches the "
    "ventricle."
)
HALF = {"box": [20, 20, 3, 40, 40, 9], "peak": 9, "ratio": 0.0575}  # IoU 1/3, 4 off, 15 % off
SMOOTH = 0.1 + 0.2 + 0.7 / 3
# Maximum, half-right answer, perfect answer without the keyword, think block without an answer.
PUBLISHED = {
    "published_5_5": (5.5, 1 + 0.5 + 0.7 + 0.7 + 1, 5.5, 0),
    "published_6_5": (6.5, 1 + 1 + 0.5 + 0.7 + 0.7 + 1, 6.5, 1),
    "published_7_5": (7.5, 2 + 1 + 0.5 + 0.7 + 0.7 + 1, 6.5, 2),
    "published_9_0": (9.0, 1 + 1 + 1 + 1.05 + 1.05 + 1, 8.5, 1),
    "published_8_5_stepped": (8.5, 1 + 1 + 1 + 1.05 + 1.05 + 0.5, 8.0, 1),
    "published_8_5_smooth": (8.5, 1 + 1 + 3 * SMOOTH + 1.05 + 1.05 + 0.5, 8.0, 1),
    "published_10_0": (10.0, 0.5 + 0.5 + 5 * SMOOTH + 1.4 + 1.4, 9.8, 0.5),
    "published_10_5": (10.5, 1 + 0.5 + 5 * SMOOTH + 1.4 + 1.4, 1.0, 1),
    "published_4_5": (4.5, 1 + 0.5 + SMOOTH + 0.7 + 0.7, 1.0, 1),
}


def test_every_preset_is_tested_and_can_be_chosen():
    assert set(PUBLISHED) | {"default"} == set(PRESETS)
    assert set(PRESETS) == set(RewardConfig.model_json_schema()["properties"]["preset"]["enum"])
    for preset, terms in PRESETS.items():
        names = {term.name for term in terms}
        assert reasons(preset) == bool(names & {"thinking_format", "video_keyword"}), preset


@pytest.mark.parametrize("preset", PUBLISHED)
def test_published_rewards_by_hand(preset):
    maximum, half, unkeyed, unanswered = PUBLISHED[preset]
    think = LONG if reasons(preset) else None
    assert sum(term.weight for term in PRESETS[preset]) == pytest.approx(maximum)
    assert pay(text_of(think=think), preset)[0] == pytest.approx(maximum)
    assert pay(text_of(None, None, 0, think=think), preset, HEALTHY)[0] == pytest.approx(maximum)
    assert pay(text_of(**HALF, think=think), preset)[0] == pytest.approx(half)
    other = think and think.replace("This video shows", "Here we see")
    assert pay(text_of(think=other), preset)[0] == pytest.approx(unkeyed)
    assert pay(f"<think>{LONG}</think><answer>none</answer>", preset)[0] == pytest.approx(
        unanswered
    )
    # Without a think block the answer is invalid where one is asked for.
    assert pay(text_of(), preset)[0] == pytest.approx(0 if reasons(preset) else maximum)


# The worked example of the published prompt, its truth, and what the published code pays for it.
EXAMPLE = (
    "<think> This video shows an MRI sequence where tumor appears in right hemisphere starting at "
    "slice 102. Peak intensity at slice 124. Estimating volume as 2.2% based on bbox dimensions "
    '</think>\n<answer>[{"bbox_3d": [91, 33, 102, 131, 84, 150], "peak_slice": 124, '
    '"tumor_ratio": 0.022}]</answer>'
)
GRID = {"source_shape": [182, 218, 182], "crop": [0, 0, 0, 182, 218, 182], "size": [182, 218]}
EXAMPLE_PAYS = {name: maximum for name, (maximum, *_) in PUBLISHED.items()} | {
    "published_4_5": 4.4  # its think block has 150 characters, not 200
}


@pytest.mark.parametrize("preset", PUBLISHED)
def test_the_published_example_earns_what_the_published_code_pays(preset):
    case = sample([91, 33, 102, 131, 84, 150], 124, 0.021957)
    case = case.model_copy(update={"geometry": case.geometry | GRID | {"layout": "single"}})
    text = EXAMPLE if reasons(preset) else EXAMPLE.split("<answer>")[1].removesuffix("</answer>")
    assert pay(text, preset, case)[0] == pytest.approx(EXAMPLE_PAYS[preset])
    assert pay(text.replace("[{", "{").replace("}]", "}"), preset, case) == pay(text, preset, case)


@pytest.mark.parametrize("form", ["[{0}, {0}]", "[[{0}]]", "[]", "[{0}] [{0}]", "[null]"])
def test_published_rewards_accept_a_list_of_one_object_alone(form):
    answer = text_of()
    text = f"<think>{LONG}</think><answer>{form.replace('{0}', answer)}</answer>"
    paid = [pay(text, preset)[1].get("iou") for preset in PUBLISHED]
    assert paid == [0] * len(PUBLISHED)


def test_the_default_reward_pays_nothing_for_a_list():
    assert pay(text_of(), "default")[0] == pytest.approx(1)
    assert pay(f"[{text_of()}]", "default")[0] == 0


@pytest.mark.parametrize(
    ("length", "long", "graded"),
    [(49, 0, 0), (50, 1, 0.3), (100, 1, 0.6), (149, 1, 0.6), (150, 1, 0.8), (200, 1, 1)],
)
def test_length_of_the_think_block_by_hand(length, long, graded):
    for preset, expected in (("published_10_5", long), ("published_4_5", graded)):
        assert pay(text_of(think="x" * length), preset)[1]["thinking_format"] == expected
        json_inside = text_of(think="{" + "x" * length)
        assert pay(json_inside, preset)[1]["thinking_format"] == 0


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
    assert moved["center"] == pytest.approx(2.718281828**-0.5)  # 10 pixels of 1 mm
    assert moved["peak_slice"] == pytest.approx(2.718281828**-1)  # 2 of 6 slices, times 3
    assert moved["tumor_ratio"] == pytest.approx(0.8)


def hacks(preset: str) -> dict[str, str]:
    think = LONG if reasons(preset) else None
    padding = " ".join(["This region is carefully examined."] * 60)
    return {
        "empty": "",
        "babble": "a " * 1200,
        "nan": text_of(think=think).replace("10, 20, 3, 30, 40, 9", ", ".join(["NaN"] * 6)),
        "infinity": text_of(think=think).replace("0.05", "Infinity"),
        "whole volume": text_of([0, 0, 0, 64, 64, 16], 8, 1.0, think),
        "copied schema": SCHEMA
        if think is None
        else f"<think>{LONG}</think><answer>{SCHEMA}</answer>",
        "copied example": text_of([91, 33, 102, 131, 84, 150], 124, 0.022, think),
        "constant elsewhere": text_of([40, 2, 12, 60, 18, 15], 13, 0.02, think),
        "repetition": " ".join([text_of(think=think)] * 5),
        "padding": f"<think>{SHOWN} {padding}</think>",
        "list of boxes": f"[{text_of()}, {text_of()}]",
        "no tumor": text_of(None, None, 0, think),
        "keyword stuffing": " ".join([SHOWN] * 50),
    }


# About half of these pays for form: the whole volume as box, near the right frame, earns so much.
GENEROUS = {"published_6_5": 0.8, "published_7_5": 0.85}
SCHEMA = '{"bbox_3d": [x1, y1, z1, x2, y2, z2], "peak_slice": z, "tumor_ratio": r}'


@pytest.mark.parametrize("preset", PRESETS)
def test_hacks_score_below_a_fair_answer(preset):
    # Fair: IoU 0.43, two slices off, ratio 15 % off.
    think = LONG if reasons(preset) else None
    fair = pay(text_of([18, 20, 3, 38, 40, 9], 7, 0.0575, think), preset)[0]
    limit = GENEROUS.get(preset, 0.75) * fair
    for name, text in hacks(preset).items():
        assert pay(text, preset)[0] < limit, name
    invented = pay(text_of(think=think), preset, HEALTHY)[0]
    assert invented < limit, "a tumor where there is none"


@pytest.mark.parametrize("preset", PRESETS)
def test_silence_earns_nothing(preset):
    assert pay("", preset)[0] == 0
    assert pay("", preset, HEALTHY)[0] == 0


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
