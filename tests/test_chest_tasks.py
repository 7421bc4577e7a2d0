"""The chest tasks: words, strict reading, metrics, and what undone mistakes bring."""

import re
import time
from types import SimpleNamespace

import pytest
from chest_films import GEOMETRY, REPORT, film, normal, samples
from hypothesis import given
from hypothesis import strategies as st

from medtune.config.data import TaskConfig
from medtune.models.coordinate_format import IMAGE_COORDINATE_FORMATS
from medtune.rewards.base import score_all
from medtune.runtime.errors import ConfigError, DataError
from medtune.sources.chest.labels import LABELS
from medtune.sources.chest.prior_phrases import prior_phrases
from medtune.tasks import get_task
from medtune.tasks.base import with_truth
from medtune.tasks.chest import abnormality_classification as classification
from medtune.tasks.chest import abnormality_detection as detection
from medtune.tasks.chest import conversation, grounding, report_generation
from medtune.tasks.chest import templates as wording
from medtune.tasks.chest.boxes import side
from medtune.tasks.chest.xray import PARTS, THOUGHT

TASK, THINKING = (
    get_task(TaskConfig(name="chest_xray", chain_of_thought=one)) for one in (False, True)
)
QWEN = IMAGE_COORDINATE_FORMATS["qwen2_5_vl"]


@pytest.fixture(scope="module")
def asked():
    """Test samples of every task."""
    return [*samples(film(50)), *samples(normal(200))]


def one_of(task: str, **changes):
    return next(one for one in samples(film(50, **changes)) if one.task == task)


def reason(text: str, sample, task=TASK, dialect=QWEN) -> str:
    return task.judge(text, sample, dialect).reason


def measured(text: str, sample, dialect=QWEN) -> dict:
    found = TASK.measure(TASK.judge(text, sample, dialect))
    del found["score"]
    return {key.removeprefix(f"{sample.task}_"): v for key, v in found.items() if v is not None}


def test_all_eight_tasks_are_asked(asked):
    assert {one.task for one in asked} == set(PARTS)
    assert len(PARTS) == 8
    with pytest.raises(DataError, match="chest tasks are report_generation"):
        TASK.prompt(asked[0].model_copy(update={"task": "mri"}), QWEN)


@pytest.mark.parametrize("task", [TASK, THINKING], ids=["plain", "thinking"])
@pytest.mark.parametrize("family", IMAGE_COORDINATE_FORMATS)
def test_the_gold_answer_is_valid_and_near_perfect(task, family, asked):
    dialect = IMAGE_COORDINATE_FORMATS[family]
    for sample in asked:
        judged = task.judge(task.target(sample, dialect), sample, dialect)
        assert judged.reason is None, (sample.id, judged)
        found = {key: v for key, v in task.measure(judged).items() if v is not None}
        assert len(found) > 1
        # Hundredths of a small frame cost most, and more of the square around it.
        coarse = {"llava_onevision": 0.75, "chexagent": 0.75, "llava_med": 0.7, "maira2": 0.7}
        least = coarse.get(family, 0.9)
        assert min(found.values()) >= least, (sample.id, found)
        for key, value in found.items():
            boxes = "soft_f1" in key or "iou" in key or key == "score"
            assert value == 1 or boxes, (sample.id, key)
        own = [found.get(f"{sample.task}_{name}") for name in PARTS[sample.task].scores]
        assert found["score"] in own


def test_metrics_of_other_tasks_are_none(asked):
    for sample in asked:
        found = TASK.measure(TASK.judge("", sample, QWEN))
        assert {key for key, v in found.items() if v is not None} - {"valid", "score"} <= {
            f"{sample.task}_{score}" for score in PARTS[sample.task].scores
        }
        assert not any(found.values())  # nothing, said of anything, is a failure


def test_questions_derive_from_the_id_alone(asked):
    again = [*samples(normal(200)), *samples(film(50))]
    prompts = {one.id: (one.prompt, one.target) for one in again}
    assert prompts == {one.id: (one.prompt, one.target) for one in asked}
    several = {PARTS["report_generation"].question(f"s/{n}/r", {}) for n in range(400)}
    assert len(several) == len(wording.OPENINGS) * len(report_generation.REQUESTS)


TEMPLATES = (
    *wording.OPENINGS,
    *report_generation.REQUESTS,
    *(text for part in (classification, detection) for text in (*part.REQUESTS, *part.NOTHING)),
    *classification.SOME,
    *detection.PREFIXES,
    *conversation.ASKED,
    *(
        text
        for part in (grounding.ANATOMICAL, grounding.ABNORMALITY, grounding.PHRASE)
        for text in (*part.requests, *part.answers)
    ),
)


def test_no_wording_holds_a_number_or_comes_twice():
    assert not [text for text in TEMPLATES if re.search(r"\d", text)]
    assert len({*grounding.WHERE, *grounding.THERE}) == len(grounding.WHERE) + len(grounding.THERE)
    formats = [TASK.answer_format, THINKING.answer_format]
    assert not [text for text in formats if re.search(r"\d", text)]


def test_a_prompt_tells_no_number_of_the_case(asked):
    """Only the picture's ends, which the dialect's convention names."""
    for sample in asked:
        if sample.turns:
            continue
        numbers = re.findall(r"\d+", TASK.prompt(sample, QWEN).replace("x1, y1, x2, y2", ""))
        assert numbers in ([], ["500", "350"]), sample.id
        assert THINKING.prompt(sample, QWEN).endswith("</answer>.")


def test_the_example_is_of_nobody(asked):
    texts = {TASK.example(one) for one in asked}
    assert not [text for text in texts if "upper zone" in text or "ILD" in text]


@pytest.mark.parametrize("name", PARTS)
def test_empty_and_garbled_texts_are_invalid(name):
    sample = one_of(name)
    for text in ("", "  \n", "42", "?!", "]]["):
        assert reason(text, sample), text


GROUNDED = ("anatomical_grounding", "abnormality_grounding", "phrase_grounding")


@pytest.mark.parametrize("name", [*GROUNDED, "abnormality_detection"])
@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("A nodule at [nan, 1, 2, 3].", "not a box"),
        ("A nodule at [1, 2, 3e1, 40].", "not a box"),
        ("A nodule at [30, 2, 3, 40].", "reversed"),
        ("A nodule at [10, 10, 505, 40].", "outside the image"),
        ("A nodule at [-1, 10, 50, 40].", "outside the image"),
        ("A nodule at [10, 10, 50, 40] and [10, 10, 50, 40].", "given twice"),
        ("A nodule at [10, 10, 50, 40], 12, 13.", "outside a box"),
        ("A nodule at 10, 10, 50, 40.", "outside a box"),
        ("A nodule at [10, 10, 50, 40], [60, 10, 90", "outside a box"),
        ("A nodule at [10, 10, 50, 40] or NaN.", "outside a box"),
        ("It is somewhere.", "no box|neither a box"),
        (" and ".join(f"[{n}, 0, {n + 5}, 9]" for n in range(60)), "60 boxes"),
    ],
)
def test_boxes_are_read_strictly(name, text, why):
    assert re.search(why, reason(text, one_of(name)))


@given(
    st.text(max_size=80),
    st.sampled_from(sorted(PARTS)),
    st.sampled_from(sorted(IMAGE_COORDINATE_FORMATS)),
)
def test_no_text_breaks_a_parser(text, name, family):
    sample, dialect = SAMPLES[name], IMAGE_COORDINATE_FORMATS[family]
    for task in (TASK, THINKING):
        judged = task.judge(text, sample, dialect)
        assert (judged.answer is None) == bool(judged.reason)
        found = [value for value in task.measure(judged).values() if value is not None]
        assert all(0 <= value <= 1 for value in found)


SAMPLES = {one.task: one for one in samples(film(50))}


@pytest.mark.parametrize(
    "piece", ["[,", "no ", " ", "1 ,", "<box>", "is at ", "[1, 2, 3, 4] ", "{"]
)
def test_a_long_text_is_read_in_no_time(piece):
    start = time.process_time()
    for name in PARTS:
        reason(piece * 6000 + "]", SAMPLES[name])
    assert time.process_time() - start < 5


def test_reasoning_stands_before_the_answer():
    sample = one_of("anatomical_grounding")
    text = THINKING.target(sample, QWEN)
    assert text.startswith("<think>I look for this: ")
    assert (
        THINKING.judge(text, sample, QWEN).answer
        == TASK.judge(TASK.target(sample, QWEN), sample, QWEN).answer
    )
    assert "not of the form" in reason(TASK.target(sample, QWEN), sample, THINKING)
    told = with_truth(sample, sample.truth | {THOUGHT: "Two lungs."})
    assert "<think>Two lungs.</think>" in THINKING.target(told, QWEN)
    talk = one_of("conversation")
    assert THINKING.target(talk, QWEN) == talk.target
    for one in SAMPLES.values():
        assert not re.search(r"\d", PARTS[one.task].thought(one)) or "report" in one.truth


SENTENCES = [
    ("There is no pneumothorax.", set(), {"Pneumothorax"}),  # a substring would find it
    ("No pneumothorax or pleural effusion; edema is seen.", {"Edema"}, {"Pneumothorax"}),
    ("I see edema and pneumonia.", {"Edema", "Pneumonia"}, set()),
    ("The heart is enlarged.", {"Cardiomegaly"}, set()),
    ("This film is normal.", set(), {"Edema", "Fracture"}),
    ("A pacemaker is in place. The lungs are clear.", {"Support Devices"}, {"Lung Opacity"}),
    ("Edema. Pneumonia cannot be excluded.", {"Edema"}, set()),
]


@pytest.mark.parametrize(("text", "present", "absent"), SENTENCES)
def test_labels_are_read_with_their_negations(text, present, absent):
    answer = TASK.judge(text, one_of("abnormality_classification"), QWEN).answer
    assert answer.present == present
    assert answer.absent >= absent
    assert not answer.present & answer.absent


@pytest.mark.parametrize("label", LABELS)
def test_every_wording_names_every_label(label):
    """Alone and beside others, in all wordings: an answer means what it was made of."""
    sample = one_of("abnormality_classification")
    for n in range(12):
        other = LABELS[(LABELS.index(label) + n) % len(LABELS)]
        third = LABELS[(LABELS.index(label) + 2 * n) % len(LABELS)]
        present = sorted({label, other, third})
        truth = {"present": present, "absent": []}
        one = with_truth(sample, truth).model_copy(update={"id": f"made/{label}/{n}"})
        answer = TASK.judge(TASK.target(one, QWEN), one, QWEN).answer
        assert answer.present == set(present), TASK.target(one, QWEN)


def test_unknown_labels_are_not_judged():
    labels = {"Edema": "present", "Fracture": "absent", "Pneumonia": "uncertain"}
    sample = one_of("abnormality_classification", labels=labels)
    assert sample.truth == {"present": ["Edema"], "absent": ["Fracture"]}
    assert measured("I see edema and a pneumothorax.", sample)["f1"] == 1
    assert measured("I see edema and a fracture.", sample)["f1"] == pytest.approx(2 / 3)
    assert measured("No edema.", sample)["f1"] == 0
    assert measured("No pneumothorax.", sample)["exact"] == 0


def test_findings_are_read_from_sentences_and_json():
    sample = one_of("abnormality_detection")
    clauses = "I find: a nodule/mass at [100, 100, 130, 125]; also ILD at [75, 175, 200, 275]."
    objects = (
        '```json\n[{"bbox_2d": [100, 100, 130, 125], "label": "nodule/mass"},\n'
        '{"bbox_2d": [75, 175, 200, 275], "label": "ILD"}]\n```'
    )
    lines = "- Nodule/mass: [100, 100, 130, 125]\n- ILD is located at [75, 175, 200, 275]"
    for text in (clauses, objects, lines):
        answer = TASK.judge(text, sample, QWEN).answer
        assert [name.lower() for name in answer.names] == ["nodule/mass", "ild"], text
        assert answer.boxes == ((100, 100, 130, 125), (75, 175, 200, 275))
    several = TASK.judge(
        "Nodules at [1, 1, 9, 9], [11, 1, 19, 9] and [1, 11, 9, 19].", sample, QWEN
    )
    assert several.answer.names == ("Nodules",) * 3
    assert "no name" in reason("[1, 1, 9, 9]", sample)
    assert "no JSON" in reason('{"bbox_2d": [1, 1, 9, 9]', sample)
    assert "one label" in reason('[{"bbox_2d": [1, 1, 9, 9]}]', sample)


def test_a_normal_film_can_be_right():
    """It scores by itself and never as a missing overlap."""
    sample = next(one for one in samples(normal()) if one.task == "abnormality_detection")
    assert measured("The film is normal.", sample) == {"normal_correct": 1, "valid": 1}
    assert measured("ILD at [1, 1, 9, 9].", sample) == {"normal_correct": 0, "valid": 1}
    for unboxed in ("The heart is normal. There is a large effusion.", "Clear. Possible edema."):
        assert measured(unboxed, sample) == {"normal_correct": 0, "valid": 0}
    ill = one_of("abnormality_detection")
    assert measured("The film is normal.", ill)["mean_iou"] == 0


def test_reasoning_about_a_phrase_does_not_repeat_its_earlier_films():
    one = one_of("phrase_grounding")
    one = one.model_copy(update={"truth": one.truth | {"phrase": "Unchanged small effusion."}})
    assert prior_phrases(THINKING.target(one, QWEN)) == []


def test_doubts_alone_name_no_finding():
    doubted = one_of("abnormality_classification")
    for text in ("Pneumonia cannot be excluded.", "No effusion. Possible edema."):
        assert "doubted" in reason(text, doubted)


def test_a_box_of_another_name_is_no_hit():
    sample = one_of("abnormality_detection")
    gold = TASK.target(sample, QWEN)
    wrong = gold.replace("ILD", "effusion")
    assert measured(wrong, sample)["f1_50"] == pytest.approx(2 / 3)


def test_the_image_s_left_is_the_patient_s_right():
    assert side([(0, 0, 100, 100)], GEOMETRY) == "right"
    assert side([(400, 0, 500, 100)], GEOMETRY) == "left"
    assert side([(240, 0, 262, 9)], GEOMETRY) == "midline"
    assert side([(0, 0, 9, 9), (400, 0, 500, 9)], GEOMETRY) == "both"
    found = TASK.strata(one_of("phrase_grounding"))
    assert found["side"] == "right"
    assert found["size"] == pytest.approx(120 * 100 / 2000 / 1400)
    assert TASK.strata(one_of("report_generation")) == {"size": None, "side": "no box"}


MISTAKES = {
    "x and y are exchanged": lambda b: (b[1], b[0], b[3], b[2]),
    "pixels are written for thousandths of the image": lambda b: (
        *(b[0] * 0.512, b[1] * 0.384, b[2] * 0.512, b[3] * 0.384),
    ),
    "boxes are relative to the picture without its padding": lambda b: (
        *(b[0] * 512 / 500, b[1] * 384 / 350, b[2] * 512 / 500, b[3] * 384 / 350),
    ),
    "left and right are exchanged": lambda b: (500 - b[2], b[1], 500 - b[0], b[3]),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_systematic_mistakes_are_found(mistake):
    sample = one_of("abnormality_grounding")
    wrong = [MISTAKES[mistake](box) for box in sample.truth["boxes"]]
    judged = TASK.judge(
        TASK.target(with_truth(sample, sample.truth | {"boxes": wrong}), QWEN), sample, QWEN
    )
    found = TASK.error_hypotheses(judged)
    before, after = found[mistake]
    assert after > before + 0.2
    assert max(found, key=lambda name: found[name][1]) == mistake
    assert TASK.error_hypotheses(TASK.judge("junk", sample, QWEN)) is None
    assert TASK.error_hypotheses(TASK.judge(REPORT, one_of("report_generation"), QWEN)) is None


def test_the_consensus_is_the_answer_most_like_the_others():
    sample = one_of("anatomical_grounding")

    def answer(text):
        return TASK.judge(text, sample, QWEN).answer

    left, right, off = (f"It is at [{x}, 0, {x + 20}, 20]." for x in (0, 2, 300))
    assert TASK.majority_vote([answer(off), answer(left), answer(right)]) in (1, 2)
    assert TASK.majority_vote([answer("?"), answer("?"), answer(left)]) == 0
    assert TASK.majority_vote([None, answer(left)]) == 1
    labels = one_of("abnormality_classification")
    said = [TASK.judge(t, labels, QWEN).answer for t in ("Edema.", "A fracture.", "I see edema.")]
    assert TASK.majority_vote(said) == 0


def test_centers_are_compared_where_each_side_has_one_box():
    sample = one_of("anatomical_grounding")
    answered, true = TASK.centers(TASK.judge(TASK.target(sample, QWEN), sample, QWEN))
    assert answered == pytest.approx(true, abs=0.01)
    assert TASK.centers(TASK.judge("[1, 1, 2, 2] and [3, 3, 4, 4]", sample, QWEN)) is None
    assert TASK.centers(SimpleNamespace(sample=one_of("report_generation"), answer=None)) is None


def test_the_reward_of_gold_is_more_than_that_of_junk(asked):
    terms = TASK.terms("default", {})
    with pytest.raises(ConfigError, match="chest films have no 'published_9_0'"):
        TASK.terms("published_9_0", {})
    for sample in asked:
        gold, junk = (
            score_all(terms, [TASK.judge(text, sample, QWEN)])[0][0]
            for text in (TASK.target(sample, QWEN), "")
        )
        assert gold > 0.8, sample.id
        assert junk <= 0.1, sample.id


@pytest.mark.parametrize("family", IMAGE_COORDINATE_FORMATS)
def test_findings_may_share_a_box_and_a_reply_may_name_one_again(family):
    """What the data teaches must be a valid answer."""
    dialect, box = IMAGE_COORDINATE_FORMATS[family], [10.0, 10.0, 60.0, 80.0]
    findings = [{"name": name, "box": box} for name in ("effusion", "opacity", "opacity")]
    sample = one_of("abnormality_detection").model_copy(update={"truth": {"findings": findings}})
    judged = TASK.judge(TASK.target(sample, dialect), sample, dialect)
    assert judged.answer is not None, judged.reason
    assert sorted(judged.answer.names) == ["effusion", "opacity"]
    talk = one_of("grounded_conversation")
    said = "It lies at <box>10, 10, 60, 80</box>, so <box>10, 10, 60, 80</box> is abnormal."
    talk = talk.model_copy(update={"target": said})
    judged = TASK.judge(TASK.target(talk, dialect), talk, dialect)
    assert judged.answer is not None, judged.reason
    assert len(judged.answer.boxes) == 1
