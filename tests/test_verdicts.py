"""The headline's sentences: the word, the sign and the words about form and content agree."""

import pytest

from medtune.reporting.key_results import headline, print_headline
from medtune.reporting.verdicts import SIGNS

METRICS = ("iou", "iou_valid", "valid")
UP, DOWN, NONE = (0.02, 0.06), (-0.06, -0.02), (-0.025, 0.004)


def change(ends):
    if ends is None:
        return None
    low, high = ends
    middle = None if low is None else (low + high) / 2
    about = {"p_holm": 0.01, "p_is_limit": False, "n": 9, "patients": 9}
    return {"mean": 0.1 if middle is None else middle, "low": low, "high": high} | about


def metrics(iou, content, form, pair="grpo - sft, greedy"):
    """What `score` writes, with the changes of one comparison."""
    changes = dict(zip(METRICS, map(change, (iou, content, form)), strict=True))
    flat = {name: {"mean": 0.0, "low": 0.0, "high": 0.0} for name in METRICS}
    return {
        "models": {name: {"greedy": flat} for name in ("constant", "base", "sft", "grpo")},
        "comparisons": {pair: changes},
    }


@pytest.mark.parametrize(
    ("iou", "content", "form", "verdict", "words"),
    [
        (UP, UP, NONE, "better", "boxes got better (3-D IoU +0.040 [+0.020, +0.060])"),
        (UP, NONE, UP, "format only", "made 4 % more answers valid; boxes did not get better"),
        (UP, DOWN, UP, "format only", "boxes got worse"),
        (NONE, NONE, UP, "format only", "(3-D IoU -0.011 [-0.025, +0.004])"),
        (DOWN, NONE, DOWN, "worse", "made 4 % fewer answers valid; boxes did not get better"),
        (DOWN, UP, DOWN, "worse", "boxes got better"),
        (NONE, DOWN, NONE, "worse", "is not shown to change how many answers are valid (-1 %)"),
        (NONE, NONE, NONE, "undecided", "boxes did not get better"),
        (NONE, NONE, (0.0, 0.0), "undecided", "made neither more nor fewer answers valid"),
        (UP, None, UP, "undecided", "boxes cannot be compared"),
        ((None, None), None, None, "undecided", "one patient decides nothing"),
        (None, None, UP, "undecided", "applies to no case"),
    ],
)
def test_a_change_of_form_is_told_from_one_of_content(iou, content, form, verdict, words):
    _, grpo, _ = headline(metrics(iou, content, form))
    assert grpo.verdict == verdict
    assert grpo.sign == SIGNS[verdict]
    assert words in grpo.sentence
    assert grpo.sentence.startswith("GRPO ")


@pytest.mark.parametrize(
    ("ends", "verdict", "words"),
    [
        (UP, "better", "SFT is better than a constant box"),
        (DOWN, "worse", "SFT is worse than a constant box"),
        (NONE, "undecided", "SFT is not shown to be better than a constant box"),
        ((0.0, 0.0), "undecided", "not shown"),
        ((None, None), "undecided", "one patient decides nothing"),
        (None, "undecided", "not run"),
    ],
)
def test_no_title_states_what_did_not_happen(ends, verdict, words):
    sft, _, _ = headline(metrics(ends, None, None, "sft - constant, greedy"))
    assert (sft.verdict, sft.title) == (verdict, "SFT: mean 3-D IoU")
    assert words in sft.sentence


def test_the_terminal_shows_sign_word_and_sentence(tmp_path, capsys):
    from medtune.runtime.files import write_json

    write_json(tmp_path / "eval/metrics.json", metrics(UP, NONE, UP))
    print_headline(tmp_path)
    told = " ".join(capsys.readouterr().err.split())
    assert "≈ format only: GRPO made 4 % more answers valid; boxes did not get better" in told
    assert "? undecided: SFT against a constant box: not run" in told
