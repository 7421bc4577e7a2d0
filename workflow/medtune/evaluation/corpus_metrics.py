"""What the answers to one chest task add up to, and the figures that follow from the sums.

    texts      BLEU-1 to -4 and GLEU of the data set; ROUGE, CIDEr-D and METEOR, which are means
    labels     F1 of the 13 labels: micro, macro, and of each (see `medtune.metrics.labels`)
    certainty  AUROC of each label, where several answers were sampled: the share of them that
               names a label is how sure a model is of it. One greedy answer has no degrees, and a
               report is no answer to each label: neither has an AUROC.
    boxes      average precision, F1 at IoU 0.5, mean matched IoU, specificity on normal films

An invalid answer is an empty text, names no label and has no box, and on a normal film it is wrong.
"""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import numpy as np

from medtune.evaluation.cluster_bootstrap import Array, Value, mean_of
from medtune.evaluation.statistics import ratio
from medtune.metrics.average_precision import MOST, RECALLS, THRESHOLDS, hits_of
from medtune.metrics.boxes import iou_matrix, matched
from medtune.metrics.labeler import read_labels
from medtune.metrics.labels import count
from medtune.metrics.text import ORDERS, CiderD, meteor, ngrams, rouge, tokens
from medtune.records.sample import Sample
from medtune.rewards.base import Judged
from medtune.rewards.reports import reference
from medtune.sources.chest.labels import LABELS
from medtune.tasks.chest.templates import plain

GRAM_NAMES = (*(f"bleu_{order}" for order in ORDERS), "gleu")
ROUGE_NAMES = ("rouge_1", "rouge_2", "rouge_l")
F1_NAMES = ("f1_micro", "f1_macro", *(f"f1 {label}" for label in LABELS))
AUROC_NAMES = ("auroc_macro", *(f"auroc {label}" for label in LABELS))
BOX_NAMES = ("ap", "ap_50", "f1_50", "mean_iou", "normal_specificity")
REPORT, CLASSES = "report_generation", "abnormality_classification"
DETECTION, PHRASES = "abnormality_detection", "phrase_grounding"
PLACES = ("anatomical_grounding", "abnormality_grounding", PHRASES, DETECTION)
# What the answers of a model to one question add: None where the figures do not apply.
Accumulate = Callable[[str, Sequence[Judged]], Array | None]


@dataclass(frozen=True, eq=False)
class CorpusMetric:
    """Figures that follow from the same sums.

    Attributes:
        names: Of the figures.
        value: Makes them from sums.
        add: What the answers of a model (its name, the answers) to one question add to the sums;
            None where nothing is known of them.
        absent: Why a model has none of them, if it has none.
        mode: Which answers are looked at.
        details: By model, what else is said of each figure.
    """

    names: tuple[str, ...]
    value: Value
    add: Accumulate
    absent: str = "nothing to compare with"
    mode: Literal["greedy", "sampled"] = "greedy"
    details: Mapping[str, Mapping[str, Any]] | None = None


def corpus_metrics(task: str, samples: Sequence[Sample]) -> list[CorpusMetric]:
    """Return the families of a chest task that need neither a model nor a judge.

    Args:
        task: `Sample.task`.
        samples: All test questions of it.
    """
    if task == REPORT:
        return [*_texts(samples), CorpusMetric(F1_NAMES, _f1, _report_labels)]
    if task == CLASSES:
        draws = "it gave fewer than two sampled answers to a film, and one has no degrees"
        certainty = CorpusMetric(AUROC_NAMES, _auroc, _certainty, draws, mode="sampled")
        return [CorpusMetric(F1_NAMES, _f1, _class_labels), certainty]
    if task in PLACES:
        names = sorted({name for one in samples for name, _ in _true(one)})
        add = partial(_boxes, {name: index for index, name in enumerate(names)})
        if task == DETECTION:
            return [CorpusMetric(BOX_NAMES, _box_figures, add)]
        return [CorpusMetric(BOX_NAMES[:-1], lambda sums: _box_figures(sums)[..., :-1], add)]
    return []


def not_run(names: Sequence[str], reason: str) -> CorpusMetric:
    """Return figures that no model has, with the reason."""
    return CorpusMetric(tuple(names), mean_of, lambda *_: None, reason)


def mean_metric(
    name: str, score: Callable[[str, Judged], float | None], absent: str
) -> CorpusMetric:
    """Return a figure that is a mean over answers.

    Args:
        name: Its name.
        score: The score of an answer of a model (its name, the answer), or None.
        absent: Why a model has none.
    """

    def add(model: str, answers: Sequence[Judged]) -> Array | None:
        value = score(model, answers[0])
        return None if value is None else np.array([value, 1.0])

    return CorpusMetric((name,), mean_of, add, absent)


def text_of(judged: Judged) -> str:
    """Return the text of an answer; an invalid one has none."""
    return "" if judged.answer is None else str(judged.answer.text)


def _texts(samples: Sequence[Sample]) -> list[CorpusMetric]:
    cider, own = CiderD(map(reference, samples)), meteor()

    def score(of: Callable[[str, str], float | None]) -> Callable[[str, Judged], float | None]:
        return lambda _, judged: of(text_of(judged), reference(judged.sample))

    absent = "no test report has words"
    return [
        CorpusMetric(GRAM_NAMES, _bleu_and_gleu, _grams, absent),
        CorpusMetric(ROUGE_NAMES, mean_of, _rouges, absent),
        mean_metric("cider_d", score(cider.score), absent),
        not_run(["meteor"], own.removeprefix("not run: "))
        if isinstance(own, str)
        else mean_metric("meteor", score(own), absent),
    ]


def _grams(_: str, answers: Sequence[Judged]) -> Array | None:
    """Return shared and answered n-grams by order, words of both, and GLEU's two numbers."""
    true = tokens(reference(answers[0].sample))
    if not true:
        return None
    said = tokens(text_of(answers[0]))
    mine, others = ngrams(said), ngrams(true)
    orders = [Counter(len(gram) for gram in part.elements()) for part in (mine & others, mine)]
    both = sum(orders[0].values())
    most = max(mine.total(), others.total())
    by_order = [one[order] for one in orders for order in ORDERS]
    return np.array([*by_order, len(said), len(true), both, most], dtype=float)


def _bleu_and_gleu(sums: Array) -> Array:
    """Return BLEU-1 to BLEU-4, not smoothed (Papineni et al., ACL 2002), and GLEU."""
    shared, said = sums[..., :4], sums[..., 4:8]
    words, true, both, most = (sums[..., column] for column in range(8, 12))
    logs = np.log(np.where(shared > 0, shared, 1.0) / np.where(said > 0, said, 1.0))
    brevity = np.minimum(0.0, 1.0 - true / np.where(words > 0, words, 1.0))
    means = np.cumsum(logs, axis=-1) / ORDERS + brevity[..., None]
    bleu = np.where(np.minimum.accumulate(shared, axis=-1) > 0, np.exp(means), 0.0)
    bleu = np.where(true[..., None] > 0, bleu, np.nan)
    return np.concatenate([bleu, ratio(both, most)[..., None]], axis=-1)


def _rouges(_: str, answers: Sequence[Judged]) -> Array | None:
    found = rouge(text_of(answers[0]), reference(answers[0].sample))
    return None if found is None else np.array([*(found[name] for name in ROUGE_NAMES), 1.0])


def _report_labels(_: str, answers: Sequence[Judged]) -> Array | None:
    """Return `count` of the labels that the rules read in both texts; unmentioned is absent."""
    if not tokens(reference(answers[0].sample)):
        return None
    said, true = (
        {label: one.status for label, one in read_labels(text).items()}
        for text in (text_of(answers[0]), reference(answers[0].sample))
    )
    present = {label for label, status in said.items() if status == "present"}
    return count(present, true, LABELS).ravel().astype(float)


def _class_labels(_: str, answers: Sequence[Judged]) -> Array | None:
    answer, truth = answers[0].answer, answers[0].sample.truth
    known = {*truth["present"], *truth["absent"]}
    if not known:
        return None
    present = answer.present if answer else frozenset()
    return count(present, dict.fromkeys(truth["present"], "present"), known).ravel().astype(float)


def _f1(sums: Array) -> Array:
    """Return micro, macro (over labels that are true or answered anywhere) and each label's F1."""
    counts = sums.reshape(*sums.shape[:-1], len(LABELS), 3)
    doubled = np.concatenate([counts, counts.sum(axis=-2, keepdims=True)], axis=-2) * [2, 1, 1]
    f1 = ratio(doubled[..., 0], doubled.sum(axis=-1))
    return np.concatenate([f1[..., -1:], _over(f1[..., :-1]), f1[..., :-1]], axis=-1)


def _over(values: Array) -> Array:
    """Return the mean over the last axis of those that are no NaN (..., 1)."""
    some = ~np.isnan(values)
    return ratio(np.where(some, values, 0.0).sum(-1, keepdims=True), some.sum(-1, keepdims=True))


SHARES = 16  # shares of draws that are told apart, with 0 and all


def _certainty(_: str, answers: Sequence[Judged]) -> Array | None:
    """Return by label how often each share of draws names it: (labels, with or without, shares)."""
    truth, found = answers[0].sample.truth, np.zeros((len(LABELS), 2, SHARES + 1))
    if len(answers) < 2 or not (truth["present"] or truth["absent"]):
        return None
    for label in {*truth["present"], *truth["absent"]}:
        named = sum(one.answer is not None and label in one.answer.present for one in answers)
        share = round(SHARES * named / len(answers))
        found[LABELS.index(label), int(label in truth["absent"]), share] = 1
    return found.ravel()


def _auroc(sums: Array) -> Array:
    """Return macro and each label's area under the curve (see `labels.auroc`)."""
    table = sums.reshape(*sums.shape[:-1], len(LABELS), 2, SHARES + 1)
    with_it, without = table[..., 0, :], table[..., 1, :]
    below = np.cumsum(without, axis=-1) - without / 2  # ties count by half
    pairs = with_it.sum(axis=-1) * without.sum(axis=-1)
    areas = ratio((with_it * below).sum(axis=-1), pairs)
    return np.concatenate([_over(areas), areas], axis=-1)


def _true(sample: Sample) -> list[tuple[str, Sequence[float]]]:
    """Return the class and the box of everything to be found; all phrases are one class."""
    truth = sample.truth
    if sample.task == DETECTION:
        return [(plain(one["name"]).casefold(), one["box"]) for one in truth["findings"]]
    name = "phrase" if sample.task == PHRASES else plain(truth["name"]).casefold()
    return [(name, box) for box in truth["boxes"]]


COLUMNS = len(THRESHOLDS) + 2  # of a class: hits, answered boxes, true boxes
TOTALS = 6  # hits at IoU 0.5, answered, true, sum of IoU, normal films called so, normal films


def _boxes(classes: Mapping[str, int], _: str, answers: Sequence[Judged]) -> Array:
    """Return, by class, hits at each threshold, answered and true boxes; then `TOTALS`."""
    judged = answers[0]
    by_class, totals = np.zeros((len(classes), COLUMNS)), np.zeros(TOTALS)
    truth = _true(judged.sample)
    names, boxes = [name for name, _ in truth], [box for _, box in truth]
    answered = judged.answer.boxes if judged.answer else ()
    said = [name.casefold() for name in judged.answer.names] if judged.answer else []
    said = said or names[:1] * len(answered)  # where one thing is asked for, it is of that class
    overlap = iou_matrix(answered, boxes, said, names)
    for name in {*names, *said} & classes.keys():
        rows = [index for index, one in enumerate(said) if one == name][:MOST]
        columns = [index for index, one in enumerate(names) if one == name]
        own = overlap[np.ix_(rows, columns)]
        hits = [hits_of(own, least).sum() for least in THRESHOLDS] if own.size else [0.0]
        by_class[classes[name], :-2] = hits
        by_class[classes[name], -2:] = len(rows), len(columns)
    right = matched((overlap >= THRESHOLDS[0]).astype(float)).sum()
    totals[:4] = right, len(answered), len(boxes), matched(overlap).sum()
    normal = not truth
    totals[4:] = normal and judged.answer is not None and not answered, normal
    return np.concatenate([by_class.ravel(), totals])


def _box_figures(sums: Array) -> Array:
    """Return AP over `THRESHOLDS`, AP at IoU 0.5, F1, mean IoU (misses are 0), specificity.

    AP is that of `scores.average_precision` for answers without confidence: of each class and
    threshold precision times the share of the 101 recalls that are reached.
    """
    by_class = sums[..., :-TOTALS].reshape(*sums.shape[:-1], -1, COLUMNS)
    hits, answered, truth = by_class[..., :-2], by_class[..., -2:-1], by_class[..., -1:]
    recall, precision = (ratio(hits, np.broadcast_to(n, hits.shape)) for n in (truth, answered))
    reached = np.searchsorted(RECALLS, np.nan_to_num(recall), side="right") / len(RECALLS)
    area = np.where(truth > 0, np.nan_to_num(precision) * reached, np.nan)
    right, given, true, overlap, normal_right, normal = (sums[..., i] for i in range(-TOTALS, 0))
    means = [_over(area.reshape(*area.shape[:-2], -1)), _over(area[..., 0])]
    rest = [
        ratio(2 * right, np.where(true > 0, given + true, 0)),
        ratio(overlap, true),
        ratio(normal_right, normal),
    ]
    return np.concatenate([*means, np.stack(rest, axis=-1)], axis=-1)
