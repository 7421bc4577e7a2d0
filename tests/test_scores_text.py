"""Scores of texts by hand, and against other implementations where they are installed."""

import math
import random

import pytest
import sacrebleu

from medtune.metrics.text import (
    CiderD,
    bleu,
    gleu,
    meteor,
    rouge,
    tokens,
)

REFERENCES = [
    "There is a small left pleural effusion.",
    "No pneumothorax. The heart is of normal size.",
    "The lungs are clear. No pleural effusion or pneumothorax.",
    "Moderate cardiomegaly with a small right pleural effusion of 3.5 cm.",
]
TEXTS = [
    "A small left pleural effusion is seen.",
    "No pneumothorax. The heart is enlarged.",
    "The lungs are clear without effusion or pneumothorax or a fracture.",
    "",
]
PAIRS = list(zip(TEXTS, REFERENCES, strict=True))


def test_tokens():
    assert tokens("No 3.5 cm Nodule; the patient's, X-ray.") == [
        *("no", "3.5", "cm", "nodule", "the", "patient's", "x", "ray")
    ]


def test_gleu_by_hand():
    # "a b c": 6 n-grams; "a b d": shares a, b, "a b".
    assert gleu("a b d", "a b c") == pytest.approx(3 / 6)
    assert gleu("a b", "a b c") == pytest.approx(3 / 6)  # recall is the smaller
    assert gleu("a b c a b c", "a b c") == pytest.approx(6 / 18)


def test_bleu_by_hand():
    assert bleu("a b c d", "a b c d") == pytest.approx([1] * 4)
    found = bleu("a b c d x", "a b c d y")
    parts = [4 / 5, 4 / 5, 3 / 4, 2 / 3]  # 1-grams, then with 1 added to both numbers
    assert found == pytest.approx([math.prod(parts[:n]) ** (1 / n) for n in (1, 2, 3, 4)])
    assert bleu("a b", "a b c d")[0] == pytest.approx(math.exp(-1))  # too short
    assert bleu("a x", "a y")[1] == pytest.approx(math.sqrt(0.5 * 0.5))  # (0 + 1) / (1 + 1)


def test_rouge_by_hand():
    found = rouge("the cat sat", "the dog sat there")
    assert found["rouge_1"] == pytest.approx(2 * 2 / 7)
    assert found["rouge_2"] == 0
    assert found["rouge_l"] == pytest.approx(4 / 7)
    assert rouge("effusions", "effusion")["rouge_1"] == 1  # stems


def test_cider_by_hand():
    # Two references; "x" is in both and weighs nothing. 1-grams alone: a and b weigh log 2.
    cider = CiderD(["a x", "b x"])
    assert cider.score("a", "a x") == pytest.approx(10 / 4 * math.exp(-1 / 72))
    assert cider.score("b", "a x") == 0
    assert cider.score("a x", "a x") == pytest.approx(10 * 2 / 4)


def test_what_is_empty():
    cider = CiderD(REFERENCES)
    for score in (gleu, cider.score):
        assert score("", REFERENCES[0]) == 0
        assert score("a", ".") is None
        assert score(REFERENCES[3], REFERENCES[3]) == pytest.approx(10 if score != gleu else 1)
    assert bleu("", REFERENCES[0]) == bleu("x", REFERENCES[0]) == [0] * 4
    assert set(rouge("", REFERENCES[0]).values()) == {0}
    assert bleu("a", ".") is rouge("a", ".") is None


def test_meteor_is_not_run_without_its_data():
    found = meteor()
    if isinstance(found, str):
        assert found.startswith("not run: ")
    else:
        assert found(REFERENCES[0], REFERENCES[0]) > 0.99


def shuffled(count: int) -> list[tuple[str, str]]:
    """Return made pairs: references from a few words, texts that keep some of them."""
    chance = random.Random(1)
    words = [
        "no",
        "small",
        "left",
        "right",
        "pleural",
        "effusion",
        "heart",
        "normal",
        "large",
        "opacity",
        "is",
        "seen",
    ]
    references = [chance.choices(words, k=chance.randint(5, 20)) for _ in range(count)]
    return [
        (" ".join(w if chance.random() < 0.7 else chance.choice(words) for w in r), " ".join(r))
        for r in references
    ]


def test_cider_against_pycocoevalcap():
    other = pytest.importorskip(
        "pycocoevalcap.cider.cider_scorer", reason="pycocoevalcap is not installed"
    )
    pairs = [(" ".join(tokens(a)), " ".join(tokens(b))) for a, b in [*PAIRS, *shuffled(40)]]
    scorer = other.CiderScorer(n=4, sigma=6.0)
    for said, true in pairs:
        scorer += (said, [true])
    _, each = scorer.compute_score()
    cider = CiderD(true for _, true in pairs)
    assert [cider.score(said, true) for said, true in pairs] == pytest.approx(list(each))
    assert 0.5 < sum(each) / len(each) < 9


def test_bleu_against_sacrebleu():
    how = {"tokenize": "none", "smooth_method": "add-k", "smooth_value": 1}
    for said, true in shuffled(40):
        theirs = sacrebleu.sentence_bleu(said, [true], **how, use_effective_order=False)
        assert bleu(said, true)[3] == pytest.approx(theirs.score / 100)


def test_scores_do_not_depend_on_case_or_punctuation():
    cider = CiderD(REFERENCES)
    for said, true in PAIRS[:3]:
        shouted = f"  {said.upper().replace('.', ' ;')} "
        for score in (gleu, bleu, rouge, cider.score):
            assert score(shouted, true) == pytest.approx(score(said, true))
