"""The question, the answer, and how strictly it is read."""

import json
import math
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st
from test_geometry import chains

from medtune.config.data import TaskConfig
from medtune.geometry.volume import Geometry, box_iou
from medtune.models.coordinate_format import COORDINATE_FORMATS, IMAGE_COORDINATE_FORMATS, PIXELS
from medtune.records.sample import Sample
from medtune.runtime.errors import ConfigError
from medtune.tasks import get_task
from medtune.tasks.base import InvalidAnswerError

TASK = get_task(TaskConfig())
THINKING = get_task(TaskConfig(chain_of_thought=True))
GEOMETRY = Geometry(
    source_shape=(64, 64, 16),
    affine=((-1, 0, 0, 0), (0, -1, 0, 0), (0, 0, 4, 0), (0, 0, 0, 1)),
    crop=(0, 0, 0, 64, 64, 16),
    stride=1,
    size=(64, 64),
    layout="row",
)


def known(truth: dict, geometry: Geometry = GEOMETRY) -> Sample:
    """A sample of which no more than truth and geometry is needed."""
    return Sample(
        id="s/c/t",
        source="s",
        case_id="c",
        patient_id="p",
        split="train",
        task=TASK.name,
        media=[],
        prompt="",
        target=None,
        truth=truth,
        geometry=geometry.model_dump(mode="json"),
        meta={},
    )


def answer(**changes) -> str:
    value = {"bbox_3d": [10, 20, 3, 30, 40, 9], "peak_slice": 5, "tumor_ratio": 0.05}
    return json.dumps(value | changes)


@st.composite
def framed_boxes(draw):
    """A geometry and a box inside its first tile."""
    geometry = draw(chains())
    box = []
    for limit in (*geometry.size, geometry.frames):
        low = draw(st.floats(0, limit * 0.999))
        box.append((low, draw(st.floats(low + 1e-6, limit))))
    return geometry, (*[span[0] for span in box], *[span[1] for span in box])


@pytest.mark.parametrize("family", COORDINATE_FORMATS)
@given(framed_boxes())
def test_dialect_round_trip_is_within_half_a_unit(family, drawn):
    geometry, box = drawn
    dialect = COORDINATE_FORMATS[family]
    limits = dialect.limits(geometry)
    if min(limits) < 1:
        return  # a tile of less than one answer unit cannot be answered
    written = dialect.encode(box, geometry)
    assert all(isinstance(value, int) for value in written)
    for axis, limit in enumerate(limits):
        assert 0 <= written[axis] < written[axis + 3] <= limit
        unit = (
            1
            if dialect.relative is None or axis == 2
            else (geometry.frame_size[axis] / dialect.relative)
        )
        thin = (box[axis + 3] - box[axis]) / unit < 1
        read = dialect.decode(written, geometry)
        for edge in (axis, axis + 3):
            assert abs(read[edge] - box[edge]) <= unit * (1.0 if thin else 0.5) + 1e-6


def test_dialects_by_hand():
    box = (16.0, 32.0, 3.0, 48.0, 64.0, 5.0)
    assert PIXELS.encode(box, GEOMETRY) == [16, 32, 3, 48, 64, 5]
    # Four tiles of 64 pixels: the frame is 256 wide and 64 high.
    assert COORDINATE_FORMATS["qwen3_vl"].encode(box, GEOMETRY) == [62, 500, 3, 188, 1000, 5]
    assert COORDINATE_FORMATS["qwen3_vl"].decode([125, 500, 3, 250, 1000, 5], GEOMETRY) == (
        32,
        32,
        3,
        64,
        64,
        5,
    )
    assert COORDINATE_FORMATS["qwen3_vl"].limits(GEOMETRY) == (250, 1000, 16)
    fractions = IMAGE_COORDINATE_FORMATS["llava_onevision"]
    assert fractions.encode(box, GEOMETRY) == [0.06, 0.5, 3, 0.19, 1.0, 5]
    assert fractions.decode([0.25, 0.5, 3, 0.5, 1.0, 5], GEOMETRY) == (64, 32, 3, 128, 64, 5)
    assert fractions.limits(GEOMETRY) == (0.25, 1.0, 16)
    assert fractions.convention(GEOMETRY) == (
        "x goes up to 0.25 and y to 1.0 in fractions of the frame, z to 16 in frames."
    )


@pytest.mark.parametrize("family", COORDINATE_FORMATS)
@pytest.mark.parametrize("task", [TASK, THINKING], ids=["plain", "thinking"])
def test_the_gold_answer_is_valid_and_near_perfect(task, family, samples):
    dialect = COORDINATE_FORMATS[family]
    for sample in samples:
        judged = task.judge(task.target(sample, dialect), sample, dialect)
        assert judged.reason is None
        metrics = task.measure(judged)
        if sample.truth["bbox_3d"] is None:
            assert judged.answer.box is None
            assert metrics["no_tumor_correct"] == 1
        else:
            # On 32 x 32 pixels and ten frames rounding costs more than on real frames.
            assert metrics["iou"] > 0.6
            assert metrics["peak_error"] == 0
            assert metrics["ratio_error"] <= 0.00005


INVALID = {
    "empty": "",
    "no json": "the tumor is at 10, 20",
    "nan box": '{"bbox_3d": [NaN, NaN, NaN, NaN, NaN, NaN], "peak_slice": 5, "tumor_ratio": 0.1}',
    "infinite ratio": '{"bbox_3d": [1,1,1,2,2,2], "peak_slice": 1, "tumor_ratio": Infinity}',
    "bool peak": answer(peak_slice=True),
    "bool in box": answer(bbox_3d=[True, 20, 3, 30, 40, 9]),
    "huge ratio": '{"bbox_3d": [1,1,1,2,2,2], "peak_slice": 1, "tumor_ratio": ' + "9" * 400 + "}",
    "huge coordinate": '{"bbox_3d": [1,1,1,2,2,' + "9" * 400 + '], "peak_slice": 1, '
    '"tumor_ratio": 0.1}',
    "endless digits": '{"bbox_3d": [1,1,1,2,2,' + "9" * 5000 + '], "peak_slice": 1, '
    '"tumor_ratio": 0.1}',
    "key twice": answer()[:-1] + ', "peak_slice": 6}',
    "string coordinate": answer(bbox_3d=["10", 20, 3, 30, 40, 9]),
    "five numbers": answer(bbox_3d=[10, 20, 3, 30, 40]),
    "reversed": answer(bbox_3d=[30, 20, 3, 10, 40, 9]),
    "empty box": answer(bbox_3d=[10, 20, 3, 10, 40, 9]),
    "outside the tile": answer(bbox_3d=[10, 20, 3, 65, 40, 9]),
    "negative": answer(bbox_3d=[-1, 20, 3, 30, 40, 9]),
    "beyond the last frame": answer(bbox_3d=[10, 20, 3, 30, 40, 17]),
    "peak outside": answer(peak_slice=16),
    "fractional peak": answer(peak_slice=5.5),
    "negative ratio": answer(tumor_ratio=-0.1),
    "percent": answer(tumor_ratio=2.2),
    "missing key": '{"bbox_3d": [1,1,1,2,2,2], "peak_slice": 1}',
    "extra key": answer(confidence=1),
    "a list": f"[{answer()}]",
    "two objects": answer() + answer(),
    "text around": f"The answer is {answer()}",
    "box without peak": answer(peak_slice=None),
    "no tumor with a ratio": answer(bbox_3d=None, peak_slice=None),
    "deep nesting": "[" * 100_000,
    "tags not asked for": f"<think>a</think><answer>{answer()}</answer>",
}


@pytest.mark.parametrize("name", INVALID)
def test_invalid_answers_are_refused(name):
    with pytest.raises(InvalidAnswerError):
        TASK.parse(INVALID[name], GEOMETRY, PIXELS)


@pytest.mark.parametrize("name", [n for n in INVALID if n != "tags not asked for"])
def test_invalid_answers_are_refused_inside_tags_too(name):
    with pytest.raises(InvalidAnswerError):
        THINKING.parse(f"<think>a</think><answer>{INVALID[name]}</answer>", GEOMETRY, PIXELS)


def test_valid_answers_are_read():
    read = TASK.parse(answer(), GEOMETRY, PIXELS)
    assert (read.box, read.peak, read.ratio) == ((10, 20, 3, 30, 40, 9), 5, 0.05)
    none = TASK.parse(answer(bbox_3d=None, peak_slice=None, tumor_ratio=0), GEOMETRY, PIXELS)
    assert (none.box, none.peak, none.ratio) == (None, None, 0)
    text = f"<think>left</think>\n<answer>{answer()}</answer>"
    assert THINKING.parse(text, GEOMETRY, PIXELS) == read


@pytest.mark.parametrize(
    "text",
    [
        f"<answer>{answer()}</answer>",
        f"<think>a</think>{answer()}",
        f"<think>a</think><answer>{answer()}</answer> and more",
        f"<think>a</think><think>b</think><answer>{answer()}</answer>",
        f"<think>a</think>b</think><answer>{answer()}</answer>",
        f"<think>a</think><answer>{answer()}</answer><answer>{answer()}</answer>",
        answer(),
    ],
)
def test_reasoning_answers_have_exactly_two_blocks(text):
    with pytest.raises(InvalidAnswerError):
        THINKING.parse(text, GEOMETRY, PIXELS)


@given(st.text(max_size=300))
def test_no_text_can_break_the_parser(text):
    """No other error than the one that says why; whatever is an answer lies in the video."""
    try:
        peak = TASK.parse(text, GEOMETRY, PIXELS).peak
    except InvalidAnswerError:
        peak = None
    assert peak is None or 0 <= peak < GEOMETRY.frames


def test_the_question_says_what_the_answer_needs(tumor):
    for layout, words in (("row", "left to right"), ("rgb", "Red, green and blue")):
        geometry = GEOMETRY.model_copy(update={"layout": layout})
        text = TASK.question("a/b", geometry, ["t1c", "t1n", "t2w", "t2f"])
        assert words in text
        assert "T1 with contrast, T1, T2, FLAIR" in text
        assert "whole tumor" in text
        width, height = geometry.frame_size
        assert f"16 frames of {width} x {height} pixels" in text
        assert "frames count from 0" in text
        size = {"16", str(width), str(height)}
        numbers = set(re.findall(r"\d+", text)) - size - {"0", "1", "2", "3"}  # x1, bbox_3d
        assert not numbers, "a model copies numbers from its prompt"
    gaps = GEOMETRY.model_copy(update={"layout": "grid", "tiles": 3})
    text = TASK.question("a/b", gaps, ["t1c", "t2f", "ct"])
    assert "T1 with contrast (top left), FLAIR (top right), ct (bottom left), and black" in text
    pixels = TASK.prompt(tumor, COORDINATE_FORMATS["qwen2_5_vl"])
    relative = TASK.prompt(tumor, COORDINATE_FORMATS["qwen3_vl"])
    assert "x goes up to 32 and y to 32 in pixels" in pixels
    assert "x goes up to 1000 and y to 1000 in units of 1/1000" in relative
    assert TASK.prompt(tumor, PIXELS) == pixels
    several = {TASK.question(f"s/{i}", GEOMETRY, ["t2f"] * 4) for i in range(60)}
    assert len(several) == 16


def test_metrics_by_hand(tumor, healthy):
    geometry = Geometry.model_validate(tumor.geometry)
    box = PIXELS.encode(tuple(tumor.truth["bbox_3d"]), geometry)
    moved = json.dumps({"bbox_3d": box, "peak_slice": 0, "tumor_ratio": 0.5})
    found = TASK.measure(TASK.judge(moved, tumor, PIXELS))
    assert found["iou"] == pytest.approx(box_iou(tuple(box), tuple(tumor.truth["bbox_3d"])))
    assert found["peak_error"] == tumor.truth["peak_slice"]
    assert found["ratio_error"] == pytest.approx(0.5 - tumor.truth["tumor_ratio"])
    assert found["no_tumor_correct"] is None
    none = json.dumps({"bbox_3d": None, "peak_slice": None, "tumor_ratio": 0})
    last = geometry.frames - 1
    for text, ratio_error in (("junk", 1.0), (none, tumor.truth["tumor_ratio"])):
        missed = TASK.measure(TASK.judge(text, tumor, PIXELS))
        assert (missed["iou"], missed["iou_50"]) == (0, 0)
        peak = tumor.truth["peak_slice"]
        assert missed["peak_error"] == max(peak, last - peak)
        assert missed["ratio_error"] == pytest.approx(ratio_error)
    assert TASK.measure(TASK.judge(none, healthy, PIXELS))["no_tumor_correct"] == 1
    assert TASK.measure(TASK.judge(moved, healthy, PIXELS))["no_tumor_correct"] == 0
    assert TASK.measure(TASK.judge("junk", healthy, PIXELS))["no_tumor_correct"] == 0
    assert TASK.measure(TASK.judge(none, healthy, PIXELS))["iou"] is None


def test_reasoning_is_true_of_the_case(tumor):
    geometry = Geometry.model_validate(tumor.geometry)
    text = THINKING.target(tumor, PIXELS)
    box = tumor.truth["bbox_3d"]
    assert text.startswith("<think>This video shows")
    side = geometry.side(tuple(box))
    assert ("midline" if side == "midline" else f"patient's {side}") in text
    assert f"from frame {math.floor(box[2])} to {math.ceil(box[5]) - 1}" in text


def test_unknown_reward_terms_are_named():
    with pytest.raises(ConfigError, match="unknown term"):
        TASK.terms("default", {"iuo": 1.0})
    weights = {term.name: term.weight for term in TASK.terms("default", {"iou": 2.0})}
    assert weights["iou"] == 2.0


@pytest.mark.parametrize("ratio", [0.02, 0.00083, 0.00012, 4e-5])
def test_the_gold_answer_states_small_ratios_well_enough(ratio):
    truth = {"bbox_3d": (1, 1, 1, 2, 2, 2), "peak_slice": 1, "tumor_ratio": ratio}
    said = json.loads(TASK.target(known(truth), PIXELS))["tumor_ratio"]
    assert said == pytest.approx(ratio, rel=0.05)


def test_the_typical_answer_among_healthy_cases_is_none():
    truth = {"bbox_3d": None, "peak_slice": None, "tumor_ratio": 0.0}
    assert TASK.constant_baseline([known(truth)])(known(truth)) == truth


def test_weights_that_leave_no_reward_are_refused():
    names = [term.name for term in TASK.terms("default", {})]
    with pytest.raises(ConfigError, match="all weights are 0"):
        TASK.terms("default", dict.fromkeys(names, 0.0))


def test_the_typical_answer_holds_the_medians_as_shares_of_the_video():
    examples = [
        known({"bbox_3d": [x, 0, 4, x + 16, 32, 8], "peak_slice": 6, "tumor_ratio": x / 1000})
        for x in (8, 16, 40)
    ]
    typical = TASK.constant_baseline([*examples, known({"bbox_3d": None})])
    longer = known({}, GEOMETRY.model_copy(update={"crop": (0, 0, 0, 64, 64, 8)}))
    assert typical(known({})) == {
        "bbox_3d": [16, 0, 4, 32, 32, 8],
        "peak_slice": 6,
        "tumor_ratio": 0.016,
    }
    assert typical(longer)["bbox_3d"] == [16, 0, 2, 32, 32, 4]
    assert typical(longer)["peak_slice"] == 3
