"""Verdicts: their form is checked strictly, asked for again, and scored by hand."""

import json

import pytest

from medtune.scores.judge import (
    ATTEMPTS,
    Errors,
    Exchange,
    JudgeError,
    judge_conversation,
    judge_report,
    read_prompt,
)

KINDS = tuple(Errors.model_fields)
NONE = {kind: [] for kind in KINDS}
GREEN = {
    "matched": ["small left effusion", "no pneumothorax", "normal heart"],
    "significant": NONE | {"missing_finding": ["nodule"], "wrong_place": ["right"]},
    "insignificant": NONE | {"wrong_severity": ["mild"] * 4},
}
TALK = [Exchange(question=f"q{n}", expected="yes", answered="no") for n in range(2)]


class Judge:
    """Gives the replies it is made with, and remembers what it was asked."""

    def __init__(self, *replies: object) -> None:
        self.replies = [r if isinstance(r, str) else json.dumps(r) for r in replies]
        self.asked = []

    def __call__(self, messages):
        self.asked.append(messages)
        return self.replies[len(self.asked) - 1]


def rounds(*grades) -> dict:
    return {"rounds": [{"reason": "because", "grade": grade} for grade in grades]}


def test_green_by_hand():
    judge = Judge(GREEN)
    verdict = judge_report(judge, "candidate text", "reference text")
    assert verdict.score == pytest.approx(3 / 5)  # insignificant errors do not count
    [messages] = judge.asked
    assert [one["role"] for one in messages] == ["system", "user"]
    assert json.loads(messages[1]["content"]) == {
        "reference": "reference text",
        "candidate": "candidate text",
    }
    assert judge_report(Judge(GREEN | {"matched": []}), "a", "b").score == 0
    assert judge_report(Judge(GREEN | {"significant": NONE}), "a", "b").score == 1


def test_nothing_is_asked_about_nothing():
    assert judge_report(Judge(), " ", "b") is None
    assert judge_report(Judge(), "a", "") is None


def test_words_around_the_object_do_not_matter():
    fenced = f"Here it is:\n```json\n{json.dumps(GREEN)}\n```\nDone."
    assert judge_report(Judge(fenced), "a", "b").score == pytest.approx(3 / 5)


def test_conversations_by_hand():
    judge = Judge(rounds(10, 5))
    assert judge_conversation(judge, {"labels": {}}, TALK).score == pytest.approx(0.75)
    shown = json.loads(judge.asked[0][1]["content"])
    assert shown["rounds"][1] == {"question": "q1", "expected": "yes", "answered": "no"}


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
def test_what_is_no_verdict_is_asked_for_again(name):
    judge = Judge(WRONG[name], rounds(1, 2))
    assert judge_conversation(judge, {}, TALK).score == pytest.approx(0.15)
    assert len(judge.asked) == 2
    assert "cannot be used" in judge.asked[1][-1]["content"]
    assert judge.asked[1][-2]["role"] == "assistant"
    with pytest.raises(JudgeError, match=f"no verdict in {ATTEMPTS} replies"):
        judge_conversation(Judge(*[WRONG[name]] * ATTEMPTS), {}, TALK)


def test_prompts_name_what_the_verdict_holds():
    green, version = read_prompt("green")
    assert len(version) == 64
    for kind in KINDS:
        assert green.count(kind) == 3, kind
    conversation, other = read_prompt("conversation")
    assert other != version
    assert '"rounds"' in conversation
    assert '"grade"' in conversation
