"""Scores of texts by hand, and against other implementations where they are installed."""

import math
import random

import pytest

from medtune.scores.text import (
    CiderD,
    bleu,
    corpus_bleu,
    corpus_gleu,
    gleu,
    measure_text,
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
    assert corpus_gleu([("a b d", "a b c"), ("x", "x")]) == pytest.approx(4 / 7)


def test_bleu_by_hand():
    assert corpus_bleu([("a b c d", "a b c d")]) == pytest.approx([1] * 4)
    found = corpus_bleu([("a b c d x", "a b c d y")])
    assert found == pytest.approx(
        [4 / 5, math.sqrt(4 / 5 * 3 / 4), (4 / 5 * 3 / 4 * 2 / 3) ** (1 / 3), (1 / 5) ** (1 / 4)]
    )
    assert corpus_bleu([("a b", "a b c d")])[0] == pytest.approx(math.exp(-1))  # too short
    assert corpus_bleu([("a x", "a y")]) == [pytest.approx(0.5), 0, 0, 0]  # nothing tiny
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
    empty, no_reference = measure_text("", REFERENCES[0], cider), measure_text("a", ".", cider)
    assert {value for name, value in empty.items() if name != "meteor"} == {0.0}
    assert set(no_reference.values()) == {None}
    assert corpus_bleu([("a", "")]) is None
    assert corpus_gleu([]) is None
    perfect = measure_text(REFERENCES[3], REFERENCES[3], cider)
    assert perfect.pop("cider_d") == pytest.approx(10)
    meteors = perfect.pop("meteor")
    assert meteors is None or meteors > 0.99
    assert list(perfect.values()) == pytest.approx([1.0] * len(perfect))


def test_meteor_is_not_run_without_its_data(monkeypatch):
    found = meteor()
    if not isinstance(found, str):
        assert found(REFERENCES[0], REFERENCES[0]) > 0.99
        return
    assert found.startswith("not run: ")
    assert measure_text("a", "a", CiderD(["a"]))["meteor"] is None


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


def test_corpus_bleu_against_sacrebleu_and_pycocoevalcap():
    sacrebleu = pytest.importorskip("sacrebleu", reason="sacrebleu is not installed")
    coco = pytest.importorskip(
        "pycocoevalcap.bleu.bleu_scorer", reason="pycocoevalcap is not installed"
    )
    pairs = shuffled(40)
    said, true = [a for a, _ in pairs], [b for _, b in pairs]
    ours = corpus_bleu(pairs)
    theirs = sacrebleu.corpus_bleu(said, [true], tokenize="none", smooth_method="none", force=True)
    assert ours[3] == pytest.approx(theirs.score / 100)
    scorer = coco.BleuScorer(n=4)
    for text, reference in pairs:
        scorer += (text, [reference])
    assert ours == pytest.approx(scorer.compute_score(option="closest")[0], rel=1e-6)


def test_scores_do_not_depend_on_case_or_punctuation():
    cider = CiderD(REFERENCES)
    for said, true in PAIRS[:3]:
        shouted = measure_text(f"  {said.upper().replace('.', ' ;')} ", true, cider)
        assert shouted == pytest.approx(measure_text(said, true, cider))


def test_all_names_are_scored():
    names = set(measure_text("a", "a", CiderD(["a"])))
    assert names == {
        *("gleu", "bleu_1", "bleu_2", "bleu_3", "bleu_4", "rouge_1", "rouge_2", "rouge_l"),
        *("cider_d", "meteor"),
    }
