"""Figures of whole tasks: from sums as from the answers themselves, and how sure they are."""

import numpy as np
import pytest
from chest_films import film, normal, samples
from evaluated import STAGE
from nltk.translate.gleu_score import corpus_gleu as gleu_of_nltk
from sacrebleu.metrics import BLEU

from medtune.evaluation.cluster_bootstrap import Sums, mean_of, pooled, pooled_changes
from medtune.evaluation.corpus import corpus, missing
from medtune.evaluation.corpus_metrics import (
    BOX_NAMES,
    F1_NAMES,
    CorpusMetric,
    corpus_metrics,
    mean_metric,
    not_run,
)
from medtune.evaluation.statistics import changes, estimates
from medtune.metrics.average_precision import Detections, average_precision
from medtune.metrics.labeler import read_labels
from medtune.metrics.labels import LABELS, auroc, count, f1, total
from medtune.metrics.text import CiderD, rouge, tokens
from medtune.rewards.base import Judged
from medtune.tasks.chest.part import ChestAnswer
from medtune.tasks.chest.templates import plain

CONFIG = STAGE.evaluation.model_copy(update={"resamples": 300, "permutations": 300})
CHEST = STAGE.model_copy(update={"evaluation": CONFIG})
SAID = (
    "The heart is large. No pneumothorax.",
    "In the right upper zone there is a nodule. The heart is not enlarged.",
    "Pleural effusion on the left.",
    "Nothing at all is abnormal on this film.",
    "There is a nodule.",
)
FILMS = [film(n) for n in range(6)] + [normal(100 + n) for n in range(4)]
ASKED = [one for each in FILMS for one in samples(each)]


def of(task: str):
    return [one for one in ASKED if one.task == task]


def rows_of(answers, model="sft"):
    """A table of a model's greedy answers, and what puts them in front of their truth."""
    rows = [{"id": one.sample.id, "mode": "greedy", "answer": one} for one in answers]
    return {model: rows}


def figures(task: str, answers, chosen=None, mode="greedy"):
    """The figures of one model that gave these answers."""
    rows = [{"id": one.sample.id, "mode": mode, "answer": one} for one in answers]
    further = {} if chosen is None else {task: chosen}
    found = corpus(CHEST, of(task), {"sft": rows}, lambda row: row["answer"], (), further)
    return found["corpus"][task]["sft"]


def answered(sample, answer):
    return Judged("-", answer, None if answer else "invalid", sample)


def reports():
    said = [*SAID, None]
    return [
        answered(one, said[n] and ChestAnswer(text=said[n]))
        for n, one in enumerate(of("report_generation"))
    ]


def pairs(judged):
    return [(one.answer.text if one.answer else "", one.sample.truth["report"]) for one in judged]


def test_reports_as_from_their_texts():
    judged = reports()
    assert len(judged) == 6  # one of them is invalid, and counts
    found = figures("report_generation", judged)
    said = pairs(judged)
    texts, references = ([" ".join(tokens(one[side])) for one in said] for side in (0, 1))
    for order in (1, 2, 3, 4):
        metric = BLEU(tokenize="none", smooth_method="none", max_ngram_order=order, force=True)
        by_sacrebleu = metric.corpus_score(texts, [references]).score / 100
        assert found[f"bleu_{order}"]["mean"] == pytest.approx(by_sacrebleu)
    rouges = [rouge(*pair) for pair in said]
    for name in ("rouge_1", "rouge_2", "rouge_l"):
        assert found[name]["mean"] == pytest.approx(np.mean([one[name] for one in rouges]))
    words = [([tokens(true)], tokens(text)) for text, true in said]
    by_nltk = gleu_of_nltk([true for true, _ in words], [text for _, text in words])
    assert found["gleu"]["mean"] == pytest.approx(by_nltk)
    cider = CiderD([true for _, true in said])
    each = [cider.score(*pair) for pair in said]
    assert found["cider_d"]["mean"] == pytest.approx(np.mean(each))
    assert found["gleu"]["n"] == found["gleu"]["patients"] == 6
    assert found["gleu"]["low"] < found["gleu"]["mean"] < found["gleu"]["high"]
    counts = [
        count(
            {k for k, v in read_labels(text).items() if v.status == "present"},
            {k: v.status for k, v in read_labels(true).items()},
            LABELS,
        )
        for text, true in said
    ]
    expected = f1(total(counts))
    for name, value in zip(F1_NAMES, expected.values(), strict=True):
        own = found[name] and found[name]["mean"]
        assert own == (None if value is None else pytest.approx(value)), name
    assert found["f1 Lung Lesion"]["mean"] == pytest.approx(2 * 2 / (2 + 6))
    assert found["f1 Fracture"] is None  # nowhere: no figure, not 0


def test_bleu_needs_a_shared_n_gram_of_each_order():
    judged = [answered(one, ChestAnswer(text="Heart.")) for one in of("report_generation")]
    found = figures("report_generation", judged)
    assert found["bleu_2"]["mean"] == found["bleu_4"]["mean"] == 0 < found["gleu"]["mean"]
    assert found["bleu_1"]["mean"] > 0
    gold = [answered(one, ChestAnswer(text=one.truth["report"])) for one in of("report_generation")]
    found = figures("report_generation", gold)
    assert found["bleu_4"]["mean"] == found["gleu"]["mean"] == pytest.approx(1)


def boxes_of(rng, sample):
    """Boxes near the true ones, some too many, some with another name, or none."""
    truth = sample.truth
    pairs = [(plain(one["name"]), one["box"]) for one in truth.get("findings", ())]
    pairs = pairs or [("", box) for box in truth.get("boxes", ())]
    pairs += [("fracture", (1, 1, 9, 9)), ("nodule/mass", (1, 1, 50, 60))][: rng.integers(3)]
    kept = [one for one in pairs if rng.random() < 0.8]
    shift = rng.integers(-4, 5, size=(len(kept), 4))
    boxes = tuple(tuple(np.asarray(box) + move) for (_, box), move in zip(kept, shift, strict=True))
    named = "findings" in truth
    return ChestAnswer(boxes=boxes, names=tuple(name for name, _ in kept) if named else ())


GROUNDING = ("anatomical_grounding", "abnormality_grounding", "phrase_grounding")


@pytest.mark.parametrize("task", [*GROUNDING, "abnormality_detection"])
def test_average_precision_as_from_the_boxes(task):
    rng = np.random.default_rng(3)
    asked = of(task)
    judged = [answered(one, boxes_of(rng, one) if n % 5 else None) for n, one in enumerate(asked)]
    found = figures(task, judged)
    images, right, wrong = [], [], []
    for one in judged:
        truth = one.sample.truth
        true = [(plain(f["name"]), f["box"]) for f in truth.get("findings", ())]
        name = "phrase" if "phrase" in truth else truth.get("name", "")
        true = true or [(name, box) for box in truth.get("boxes", ())]
        boxes = one.answer.boxes if one.answer else ()
        names = (one.answer.names if one.answer else ()) or [name] * len(boxes)
        images.append(Detections(boxes, names, [b for _, b in true], [n for n, _ in true]))
        if not true:
            (right if one.answer and not boxes else wrong).append(one)
    expected = average_precision(images)
    assert 0 < found["ap"]["mean"] < 1
    assert found["ap"]["mean"] == pytest.approx(np.mean(list(expected.values())))
    assert found["ap_50"]["mean"] == pytest.approx(expected[0.5])
    if task == "abnormality_detection":
        share = len(right) / (len(right) + len(wrong))
        assert found["normal_specificity"]["mean"] == pytest.approx(share)
    else:
        assert "normal_specificity" not in found


def test_boxes_by_hand():
    """Of two findings one is hit, of normal films one is called so: boxes there are too many."""
    one, *_ = of("abnormality_detection")
    normals = [each for each in of("abnormality_detection") if not each.truth["findings"]][:2]
    [first, *_rest] = one.truth["findings"]
    hit = ChestAnswer(boxes=(tuple(first["box"]),), names=(first["name"].upper(),))
    made_up = ChestAnswer(boxes=((1, 1, 5, 5),), names=("fracture",))
    judged = [
        answered(one, hit),
        answered(normals[0], ChestAnswer()),
        answered(normals[1], made_up),
    ]
    found = {name: figures("abnormality_detection", judged)[name] for name in BOX_NAMES}
    true = len(one.truth["findings"])
    assert found["f1_50"]["mean"] == pytest.approx(2 * 1 / (2 + true))
    assert found["mean_iou"]["mean"] == pytest.approx(1 / true)
    assert found["normal_specificity"]["mean"] == 0.5
    right = figures("abnormality_detection", [answered(normals[0], ChestAnswer())])
    assert right["ap"] is None  # without a true box there is none; and a normal film is no 0
    assert right["normal_specificity"]["mean"] == 1


def test_classes_and_their_certainty():
    asked = of("abnormality_classification")
    rng = np.random.default_rng(1)
    known = [{*one.truth["present"], *one.truth["absent"]} for one in asked]
    draws = [
        [
            answered(one, ChestAnswer(present=frozenset(np.array(LABELS)[rng.random(13) < 0.4])))
            for _ in range(4)
        ]
        for one in asked
    ]
    found = figures("abnormality_classification", [each[0] for each in draws])
    counts = [
        count(each[0].answer.present, dict.fromkeys(one.truth["present"], "present"), own)
        for one, own, each in zip(asked, known, draws, strict=True)
    ]
    assert found["f1_micro"]["mean"] == pytest.approx(f1(total(counts))["micro"])
    assert found["auroc_macro"] == {
        "not_run": "it gave fewer than two sampled answers to a film, and one has no degrees"
    }
    sampled = [one for each in draws for one in each]
    found = figures("abnormality_classification", sampled, mode="sampled")
    shares = [sum("Lung Lesion" in one.answer.present for one in each) / 4 for each in draws]
    expected = auroc(shares, ["Lung Lesion" in one.truth["present"] for one in asked])
    assert found["auroc Lung Lesion"]["mean"] == pytest.approx(expected)
    assert found["auroc Edema"] is None  # no film has it
    assert found["auroc_macro"]["mean"] == pytest.approx(expected)
    assert found["f1_micro"] == {"not_run": "nothing to compare with"}


def test_what_was_not_run_says_why_and_is_not_compared():
    chosen = [not_run(["bertscore"], "models names no folder")]
    judged = reports()
    tables = rows_of(judged, "sft") | rows_of(judged, "base")
    found = corpus(
        CHEST,
        of("report_generation"),
        tables,
        lambda row: row["answer"],
        [("sft", "base", "greedy"), ("grpo", "sft", "greedy"), ("sft", "base", "sampled")],
        {"report_generation": chosen},
    )
    own = found["corpus"]["report_generation"]["sft"]
    assert own["bertscore"] == {"not_run": "models names no folder"}
    assert set(found["corpus_comparisons"]["report_generation"]) == {"sft - base"}
    compared = found["corpus_comparisons"]["report_generation"]["sft - base"]
    assert "bertscore" not in compared
    assert compared["gleu"]["mean"] == 0
    assert compared["gleu"]["p"] == compared["gleu"]["p_holm"] == 1


@pytest.mark.parametrize("task", ["phrase_grounding", "report_generation"])
def test_each_source_has_the_figures_of_its_questions_alone(task):
    """Two sources share a patient; figures of the whole task are as without them."""
    rng, same = np.random.default_rng(4), {"patient_id": "made/p"}
    asked = [
        one.model_copy(update={"source": "ab"[n % 2]} | (same if n < 3 else {}))
        for n, one in enumerate(of(task))
    ]
    said = [boxes_of(rng, s) if "boxes" in s.truth else ChestAnswer(text=SAID[0]) for s in asked]
    judged = [answered(*one) for one in zip(asked, said, strict=True)]
    tables = {"sft": rows_of(judged)["sft"], "base": rows_of(judged[::-1])["sft"]}
    told = {"sft": {"failed": 1}}
    green = mean_metric("green", lambda *_: 0.5, "-")
    green = CorpusMetric(green.names, green.value, green.add, "-", details=told)
    pairs, chosen = [("sft", "base", "greedy")], {task: [green, not_run(["bertscore"], "no data")]}

    def made(samples, further):
        rows = {
            model: [row for row in own if row["answer"].sample in samples]
            for model, own in tables.items()
        }
        return corpus(CHEST, samples, rows, lambda row: row["answer"], pairs, further)

    found = made(asked, chosen)
    assert set(found["corpus"]) == {task, f"{task}/a", f"{task}/b"}
    assert set(found["corpus_comparisons"]) == {task}
    assert [line for line in missing(found["corpus"]) if "no data" in line] == [
        f"{task}: not run: bertscore (no data)"
    ]
    for source in "ab":
        alone = made([one for one in asked if one.source == source], {})["corpus"][task]["sft"]
        own = found["corpus"][f"{task}/{source}"]["sft"]
        for name in alone.keys() - {"cider_d"}:  # which knows all references
            assert own[name] == alone[name], name
        assert "failed" not in own["green"]
    assert found["corpus"][task]["sft"]["green"]["failed"] == 1
    renamed = [one.model_copy(update={"source": "a"}) for one in asked]
    whole = corpus(CHEST, renamed, tables, lambda row: row["answer"], pairs, chosen)
    assert set(whole["corpus"]) == {task}
    assert whole["corpus"][task] == found["corpus"][task]
    assert whole["corpus_comparisons"] == found["corpus_comparisons"]


def test_pooled_means_are_the_shared_statistics():
    """Of a mean, p-values and smallest differences are those of `statistics`, intervals nearly."""
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(2, 40))
    patients = [f"p{n // 3}" for n in range(40)]
    owner = np.unique(patients, return_inverse=True)[1]

    def sums(values) -> Sums:
        rows = np.zeros((owner.max() + 1, 2))
        np.add.at(rows, owner, np.stack([values, np.ones(40)], axis=1))
        return Sums(rows, rows[:, 1])

    [ours] = pooled(sums(a), mean_of, CONFIG, 7)
    [theirs] = estimates(a[:, None], patients, 300, 0.95, 7)
    assert ours.model_dump() == pytest.approx(theirs.model_dump(), abs=0.35)
    [ours] = pooled_changes(sums(a), sums(b), mean_of, CONFIG, 7)
    [theirs] = changes((a - b)[:, None], patients, 300, 300, 0.95, 7)
    for key in ("mean", "n", "patients"):
        assert getattr(ours, key) == pytest.approx(getattr(theirs, key)), key
    assert (ours.low, ours.high) == pytest.approx((theirs.low, theirs.high), abs=0.35)
    assert ours.p == pytest.approx(theirs.p, abs=0.02)
    assert ours.detectable == pytest.approx(theirs.detectable, rel=0.2)


def test_a_real_difference_is_found_and_none_is_not():
    """F1 of a label: what is right in every patient differs, what is exchanged does not."""
    rng = np.random.default_rng(2)
    rows = np.zeros((2, 60, 39))
    hits = rng.random((2, 60)) < 0.5
    rows[:, :, 0], rows[:, :, 2] = hits, ~hits
    held = np.ones(60)
    [family] = [
        one
        for one in corpus_metrics("report_generation", of("report_generation"))
        if "f1_micro" in one.names
    ]
    same = pooled_changes(Sums(rows[0], held), Sums(rows[1], held), family.value, CONFIG, 1)
    assert same[0].p > 0.05
    assert same[0].low < 0 < same[0].high
    better = rows[0].copy()
    better[:, 0], better[:, 2] = 1, 0
    found = pooled_changes(Sums(better, held), Sums(rows[1], held), family.value, CONFIG, 1)
    assert found[0].p == pytest.approx(1 / 301)
    assert found[0].low > 0
    assert found[0].detectable < found[0].mean


def test_only_questions_that_both_have_are_compared():
    same = {"patient_id": "made/p"}  # of two films
    asked = [
        one.model_copy(update=same if n < 2 else {})
        for n, one in enumerate(of("report_generation"))
    ]
    judged = [answered(one, ChestAnswer(text="Said.")) for one in asked]

    def score(model, one):
        first = one.sample is asked[0]
        return None if first and model == "sft" else 1.0 if first else 0.25

    family = mean_metric("green", score, "-")
    own = CorpusMetric(family.names, family.value, family.add, "-", details={"sft": {"failed": 1}})
    tables = rows_of(judged, "sft") | rows_of(judged, "base")
    found = corpus(
        CHEST,
        asked,
        tables,
        lambda row: row["answer"],
        [("sft", "base", "greedy")],
        {"report_generation": [own]},
    )
    figure = found["corpus"]["report_generation"]["sft"]["green"]
    assert (figure["n"], figure["failed"], figure["mean"]) == (5, 1, 0.25)
    compared = found["corpus_comparisons"]["report_generation"]["sft - base"]["green"]
    assert (compared["n"], compared["mean"]) == (5, 0)
