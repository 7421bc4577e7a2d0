"""Verdicts: their form is checked strictly, and they are scored by hand."""

import json

import pytest

from medtune.llm.client import Completion
from medtune.texts.judge import (
    CONVERSATION_STEP,
    GREEN_STEP,
    PROMPTS,
    Errors,
    Exchange,
    JudgedConversation,
    JudgedReport,
)
from medtune.texts.messages import question
from medtune.texts.prompt_files import read_prompt
from medtune.texts.steps import judge

KINDS = tuple(Errors.model_fields)
NONE = {kind: [] for kind in KINDS}
GREEN = {
    "matched": ["small left effusion", "no pneumothorax", "normal heart"],
    "significant": NONE | {"missing_finding": ["nodule"], "wrong_place": ["right"]},
    "insignificant": NONE | {"wrong_severity": ["mild"] * 4},
}
REPORT = JudgedReport(id="s/1/r", source="s", reference="reference text", candidate="said text")
TALK = JudgedConversation(
    id="s/1/c",
    source="s",
    known={"labels": {}},
    earlier=[{"question": "before", "answer": "right"}],
    rounds=tuple(Exchange(question=f"q{n}", expected="yes", answered="no") for n in range(2)),
)


def verdict(step, item, value):
    text = value if isinstance(value, str) else json.dumps(value)
    return judge(step, item, Completion(text=text, finish="stop"))


def rounds(*grades) -> dict:
    return {"rounds": [{"reason": "because", "grade": grade} for grade in grades]}


def shown(step, item):
    first, last = question(step, read_prompt(step.name, step.prompts), item)
    assert (first["role"], last["role"]) == ("system", "user")
    assert "s/1" not in last["content"]  # ids name patients
    return json.loads(last["content"])


def test_green_by_hand():
    found, faults = verdict(GREEN_STEP, REPORT, GREEN)
    assert faults == []
    assert found.score == pytest.approx(3 / 5)  # insignificant errors do not count
    assert shown(GREEN_STEP, REPORT) == {"reference": "reference text", "candidate": "said text"}
    assert verdict(GREEN_STEP, REPORT, GREEN | {"matched": []})[0].score == 0
    assert verdict(GREEN_STEP, REPORT, GREEN | {"significant": NONE})[0].score == 1


def test_conversations_by_hand():
    found, _ = verdict(CONVERSATION_STEP, TALK, rounds(10, 5))
    assert found.score == pytest.approx(0.75)
    asked = shown(CONVERSATION_STEP, TALK)
    assert asked["rounds"][1] == {"question": "q1", "expected": "yes", "answered": "no"}
    assert asked["earlier"] == [{"question": "before", "answer": "right"}]


WRONG = {
    "no object": "7/10",
    "broken": '{"rounds": [',
    "a round too few": rounds(10),
    "a round too many": rounds(10, 5, 5),
    "above 10": rounds(10, 11),
    "a text as grade": rounds(10, "9"),
    "a fraction": rounds(10, 9.5),
    "true": rounds(10, True),
    "no reason": {"rounds": [{"grade": 1}] * 2},
    "more than asked": rounds(10, 5) | {"overall": 10},
}


@pytest.mark.parametrize("name", WRONG)
def test_what_is_no_verdict_is_refused(name):
    found, faults = verdict(CONVERSATION_STEP, TALK, WRONG[name])
    assert found is None
    assert faults


def test_prompts_name_what_the_verdict_holds():
    green, conversation = (read_prompt(name, PROMPTS) for name in ("green", "conversation"))
    for kind in KINDS:
        assert green.text.count(kind) == 3, kind
    assert green.version != conversation.version
    assert '"rounds"' in conversation.text
    assert '"grade"' in conversation.text
