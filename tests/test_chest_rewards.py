"""Rewards of chest-film answers by hand; texts and boxes without content must not pay."""

from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from medtune.records.sample import Media, Sample
from medtune.rewards.base import Judged, score_all
from medtune.rewards.reports import length_guard
from medtune.sources.chest.labels import LABELS
from medtune.tasks.chest.rewards import PRESETS

TERMS = PRESETS["default"]
REPORT = (
    "There is a moderate left pleural effusion with adjacent atelectasis in the left lower lobe. "
    "The heart is mildly enlarged. No pneumothorax or pulmonary edema. The bony structures are "
    "intact."
)
REPORT_LABELS = {
    **dict.fromkeys(("Pleural Effusion", "Atelectasis", "Cardiomegaly"), "present"),
    **dict.fromkeys(("Pneumothorax", "Edema", "Fracture"), "absent"),
    "Pneumonia": "uncertain",
}
NORMAL = "The lungs are clear. Heart size is normal. No pleural effusion or pneumothorax is seen."
NORMAL_LABELS = dict.fromkeys(
    ("Consolidation", "Lung Opacity", "Cardiomegaly", "Pleural Effusion", "Pneumothorax"), "absent"
)
FRAME = (512, 448)


def sample(task: str, target: str | None = None, **truth) -> Sample:
    media = Media(
        kind="image", path="a.png", width=FRAME[0], height=FRAME[1], frames=1, fps=0, sha256=""
    )
    return Sample(
        id=f"s/i/{task}",
        source="s",
        case_id="i",
        patient_id="p",
        split="train",
        task=task,
        media=[media],
        prompt="Describe the findings of this chest X-ray in a report.",
        target=target,
        truth=truth,
        geometry={},
        meta={},
    )


ILL = sample("report_generation", report=REPORT, labels=REPORT_LABELS)
WELL = sample("report_generation", report=NORMAL, labels=NORMAL_LABELS)
ONE_BOX = sample("abnormality_grounding", name="nodule", boxes=[[100, 100, 180, 160]])
TWO = sample(
    "phrase_grounding", phrase="effusions", boxes=[[40, 240, 160, 400], [300, 250, 420, 400]]
)
DETECT = sample(
    "abnormality_detection",
    findings=[
        {"name": "Nodule", "box": [100, 100, 180, 160]},
        {"name": "Pleural effusion", "box": [300, 250, 420, 400]},
    ],
)
NOTHING = sample("abnormality_detection", findings=[])
CLASSES = sample(
    "abnormality_classification",
    present=["Edema", "Pneumonia"],
    absent=["Fracture", "Cardiomegaly"],
)
HEALTHY = sample("abnormality_classification", present=[], absent=["Fracture", "Edema"])
TALK = sample("conversation", "The heart is mildly enlarged.", report=None, labels={}, regions=[])


def text(value: str):
    return SimpleNamespace(text=value)


def drawn(*boxes, names=()):
    return SimpleNamespace(boxes=boxes, names=names)


def pay(case: Sample, answer) -> tuple[float, dict]:
    said = getattr(answer, "text", "-")
    return score_all(TERMS, [Judged(said, answer, None, case)])[0]


def test_terms_concern_their_tasks_alone():
    concerned = [
        (ILL, {"format", "gleu", "labels", "length_guard"}),
        (TALK, {"format", "gleu", "length_guard"}),
        (ONE_BOX, {"format", "grounding"}),
        (NOTHING, {"format", "grounding"}),
        (CLASSES, {"format", "classification"}),
        (sample("report_generation", report=None, labels={"Edema": "uncertain"}), {"format"}),
    ]
    for case, names in concerned:
        total, values = pay(case, None)
        assert {name for name, value in values.items() if value is not None} == names
        assert total == 0  # an invalid answer earns nothing


def test_perfect_answers_earn_everything():
    perfect = [
        (ILL, text(REPORT)),
        (WELL, text(NORMAL)),
        (TALK, text("The heart is mildly enlarged.")),
        (ONE_BOX, drawn((100, 100, 180, 160))),
        (TWO, drawn((300, 250, 420, 400), (40, 240, 160, 400))),
        (
            DETECT,
            drawn((300, 250, 420, 400), (100, 100, 180, 160), names=("pleural effusion", "nodule")),
        ),
        (NOTHING, drawn()),
        (CLASSES, SimpleNamespace(present=frozenset({"Edema", "Pneumonia"}))),
        (HEALTHY, SimpleNamespace(present=frozenset())),
    ]
    for case, answer in perfect:
        assert pay(case, answer)[0] == pytest.approx(1), case.id


def test_a_report_by_hand():
    answer = text("There is a right pleural effusion. The heart is mildly enlarged. Pneumonia.")
    total, values = pay(ILL, answer)
    # Effusion on the wrong side, cardiomegaly right, pneumonia not judged: 2 x 1 / (2 + 3).
    assert values["labels"] == pytest.approx(0.4)
    assert values["length_guard"] == 1
    assert total == pytest.approx((0.1 + 0.45 * values["gleu"] + 0.45 * 0.4) / 1)


def test_boxes_by_hand():
    half = drawn((100, 100, 180, 130))
    assert pay(ONE_BOX, half)[1]["grounding"] == pytest.approx(0.5)
    twice = drawn((100, 100, 180, 160), (0, 0, 10, 10))
    assert pay(ONE_BOX, twice)[1]["grounding"] == pytest.approx(2 / 3)
    other = drawn((100, 100, 180, 160), names=("Mass",))
    assert pay(DETECT, other)[1]["grounding"] == 0
    assert pay(NOTHING, drawn((1, 1, 2, 2), names=("Mass",)))[1]["grounding"] == 0


def test_boxes_of_a_conversation_by_hand():
    said = "It is here: <box>100, 100, 180, 160</box>."
    talk = sample("grounded_conversation", said, report=None, labels={}, regions=[])
    right = SimpleNamespace(text=said, boxes=((100, 100, 180, 160),))
    assert pay(talk, right)[1]["grounding"] == 1
    assert pay(talk, SimpleNamespace(text=said, boxes=()))[1]["grounding"] == 0
    words = sample("grounded_conversation", "No.", report=None, labels={}, regions=[])
    assert pay(words, SimpleNamespace(text="No.", boxes=()))[1]["grounding"] is None


def test_classes_by_hand():
    said = SimpleNamespace(present=frozenset({"Edema", "Fracture", "Lung Lesion"}))
    assert pay(CLASSES, said)[1]["classification"] == pytest.approx(2 / (2 + 1 + 1))
    assert pay(HEALTHY, said)[1]["classification"] == 0


FAIR = (
    "Left pleural effusion and atelectasis in the left lower lobe. Heart size is normal. No "
    "pneumothorax."
)
BLIND = {
    "all labels": ", ".join(LABELS) + ".",
    "all labels, told at length": " ".join(f"There is {label.lower()}." for label in LABELS),
    "all denied": "No " + ", ".join(label.lower() for label in LABELS[:-1]) + " or tubes.",
    "the prompt": ILL.prompt,
    "a normal report": NORMAL,
    "one word": "effusion",
    "a full stop": ".",
    "repetition": "There is a left pleural effusion. " * 30,
    "the report five times": REPORT * 5,
    "doubt": "Possible " + ", possible ".join(label.lower() for label in LABELS) + ".",
}


@pytest.mark.parametrize("name", BLIND)
def test_blind_reports_earn_less_than_a_fair_one(name):
    fair = pay(ILL, text(FAIR))[0]
    assert fair > 0.5
    assert pay(ILL, text(BLIND[name]))[0] < 0.65 * fair, name
    if name != "a normal report":
        assert pay(WELL, text(BLIND[name]))[0] < 0.65, name


def test_a_list_of_denials_earns_no_more_labels_than_the_report_itself():
    assert pay(WELL, text(NORMAL))[1]["labels"] == 1
    assert pay(WELL, text(BLIND["all denied"]))[0] < 0.65 * pay(WELL, text(NORMAL))[0]


def test_silence_and_doubt_are_no_normal_report():
    absent = dict.fromkeys(LABELS, "absent")
    calm = sample("report_generation", report="No acute process.", labels=absent)
    assert pay(calm, text("No acute process."))[1]["labels"] == 1
    assert pay(calm, text("The lungs are clear."))[1]["labels"] == 1
    for empty in ("Chest film.", "Possible pneumonia. Effusion cannot be excluded."):
        assert pay(calm, text(empty))[1]["labels"] == 0


HEDGED = "Possible pneumonia. Small left pleural effusion. No pneumothorax."


@pytest.mark.parametrize("uncertain", ["present", "absent", "uncertain"])
@pytest.mark.parametrize("blank", ["absent", "unknown"])
def test_who_says_what_the_report_says_is_right_whatever_the_label_policy(uncertain, blank):
    known = {"Pneumonia": uncertain, "Pleural Effusion": "present", "Pneumothorax": "absent"}
    labels = (dict.fromkeys(LABELS, "absent") if blank == "absent" else {}) | known
    case = sample("report_generation", report=HEDGED, labels=labels)
    assert pay(case, text(HEDGED))[1]["labels"] == 1
    assert pay(case, text(HEDGED.replace("Possible", "There is")))[1]["labels"] == 1
    assert pay(case, text(HEDGED.replace("Small", "No")))[1]["labels"] == 0
    calm = dict.fromkeys(LABELS, "absent") if blank == "absent" else NORMAL_LABELS
    assert pay(sample("report_generation", report=NORMAL, labels=calm), text(NORMAL))[0] == 1


def test_a_negation_flip_loses_most_of_the_labels():
    one = REPORT.replace("There is a moderate", "There is no")
    every = one.replace("with adjacent", "or").replace("heart is mildly", "heart is not")
    assert pay(ILL, text(REPORT))[1]["labels"] == 1
    assert pay(ILL, text(one))[1]["labels"] == pytest.approx(2 * 2 / (2 + 3))
    assert pay(ILL, text(every))[1]["labels"] == 0
    assert pay(ILL, text(every))[1]["gleu"] > 0.6  # GLEU alone would hardly see it
    wrong = REPORT.replace("No pneumothorax or", "Pneumothorax and")
    assert pay(ILL, text(wrong))[1]["labels"] == pytest.approx(2 * 3 / (3 + 5))
    assert pay(WELL, text(NORMAL.replace("No pleural", "Large pleural")))[1]["labels"] < 0.8


def test_a_side_flip_loses_the_sided_labels():
    values = pay(ILL, text(REPORT.replace("left", "right")))[1]
    assert values["labels"] == pytest.approx(2 * 1 / 6)  # the heart has no side


@pytest.mark.parametrize("case", [ONE_BOX, TWO, DETECT])
def test_blind_boxes_earn_little(case):
    whole, names = (0, 0, *FRAME), ("Nodule", "Pleural effusion")
    grid = [(x, y, x + 51, y + 44) for x in range(0, 510, 51) for y in range(0, 440, 44)]
    for boxes in ([whole], [whole, whole], grid, grid * 2, [], [(5, 5, 5, 5)], [(9, 9, 1, 1)]):
        answer = drawn(*boxes, names=[names[index % 2] for index in range(len(boxes))])
        assert pay(case, answer)[1]["grounding"] < 0.2, len(boxes)


@given(extra=st.integers(1, 20))
def test_every_box_too_many_costs(extra):
    true = (100, 100, 180, 160)
    values = [
        pay(ONE_BOX, drawn(true, *[(300, 300, 310, 310)] * n))[1]["grounding"]
        for n in (extra - 1, extra)
    ]
    assert values[1] < values[0]


def test_naming_every_label_does_not_pay():
    said = SimpleNamespace(present=frozenset(LABELS))
    assert pay(HEALTHY, said)[1]["classification"] == 0
    some = sample(
        "abnormality_classification", present=["Edema"], absent=sorted(set(LABELS) - {"Edema"})
    )
    assert pay(some, said)[1]["classification"] < 0.15


def test_the_guard_by_hand():
    def left(said: str, case: Sample = TALK) -> float:
        return length_guard(Judged(said, text(said), None, case))

    def words(count: int) -> str:
        return " ".join(f"w{n}" for n in range(count))

    assert [left(words(n)) for n in (0, 20, 30, 45, 60, 80)] == [1, 1, 1, 0.5, 0, 0]
    assert left(" ".join(["a b c d e"] * 2)) == pytest.approx((0.6 - 2 / 7) / 0.4)
    assert left(" ".join(["a b c d e"] * 5)) == 0
