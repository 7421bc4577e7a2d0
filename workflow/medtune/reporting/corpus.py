"""The tables of figures of whole tasks, with the reason where a figure was not run."""

from collections.abc import Mapping
from typing import Any

from medtune.evaluation.corpus_metrics import CLASSES, DETECTION, REPORT
from medtune.evaluation.directions import with_arrow
from medtune.metrics.models import METRICS
from medtune.metrics.text import ORDERS
from medtune.reporting.numbers import NOT_RUN, UNDEFINED, p_text, show
from medtune.reporting.overview import Table

NAMES = {
    **{f"bleu_{order}": f"BLEU-{order}" for order in ORDERS},
    "rouge_1": "ROUGE-1",
    "rouge_2": "ROUGE-2",
    "rouge_l": "ROUGE-L",
    "gleu": "GLEU",
    "cider_d": "CIDEr-D (0 to 10)",
    "meteor": "METEOR",
    "bertscore": "BERTScore",
    "radgraph": "RadGraph F1",
    "chexbert": "CheXbert F1, mean of reports",
    **{
        f"chexbert_{kind}_{number}": f"CheXbert F1 of {number} findings, {kind}"
        for number in (14, 5)
        for kind in ("micro", "macro")
    },
    "radcliq": "RadCliQ, canonical",
    "radcliq_published": "RadCliQ, as published",
    "green": "GREEN by the judge",
    "conversation": "replies by the judge",
    "f1_micro": "F1 of labels, micro",
    "f1_macro": "F1 of labels, macro",
    "auroc_macro": "AUROC of labels, macro",
    "ap": "average precision (COCO)",
    "ap_50": "average precision at IoU 0.5",
    "f1_50": "F1 at IoU 0.5",
    "mean_iou": "mean matched IoU",
    "normal_specificity": "specificity on normal films",
}
# What a term of the reward pays: the task, and how its figures begin. The soft F1 of boxes, which
# `grounding` pays, is no figure, but on normal films it is specificity.
PAID = {
    "gleu": (REPORT, "gleu"),
    "labels": (REPORT, "f1"),
    "classification": (CLASSES, "f1"),
    "grounding": (DETECTION, "normal_specificity"),
    **{name: (REPORT, name) for name in METRICS},  # by a service
}


def rewarded(metrics: Mapping[str, Any], task: str, figure: str) -> bool:
    """Return whether a figure of `corpus` is what the reward pays, answer by answer.

    Args:
        metrics: What `score` wrote.
        task: Its task, or `task/source`.
        figure: Its name.
    """
    whole, _, _ = task.partition("/")
    paid = (PAID[name] for name in metrics.get("rewarded", ()) if name in PAID)
    return any(whole == of and figure.startswith(start) for of, start in paid)


def corpus_tables(metrics: Mapping[str, Any]) -> dict[str, Table]:
    """Return the tables `figures`, and `comparisons` of the stages.

    `short` is of figures without those of single labels and sources.

    Args:
        metrics: What `score` wrote.
    """

    def cells(task: str, name: str) -> list[str]:
        mark = " (rewarded)" if rewarded(metrics, task, name) else ""
        return [with_arrow(name_of(name), name) + mark, _task(task)]

    figures = {
        (task, model, name): [*cells(task, name), model, *_cells(figure)]
        for task, models in metrics["corpus"].items()
        for model, found in models.items()
        for name, figure in _in_order(found).items()
    }
    changes = [
        [*cells(task, name), pair, show(change, signed=True)]
        + ["-" if change[key] is None else p_text(change, key, 3) for key in ("p", "p_holm")]
        + ["-" if change["detectable"] is None else f"{change['detectable']:.3g}", str(change["n"])]
        for task, pairs in metrics.get("corpus_comparisons", {}).items()
        for pair, found in pairs.items()
        for name, change in _in_order(found).items()
    ]
    columns = ["figure", "task", "model", "value [interval]", "questions", "patients"]
    tests = ["p", "p after Holm", "detectable", "questions"]
    main = [row for (task, _, name), row in figures.items() if name in NAMES and "/" not in task]
    return {
        "figures": Table(
            columns=columns,
            rows=list(figures.values()),
            filters={"figure": "", "task": "", "model": ""},
        ),
        "short": Table(columns=columns, rows=main, filters={}),
        "comparisons": Table(
            columns=["figure", "task", "difference", "value [interval]", *tests],
            rows=changes,
            filters={"figure": "", "task": "", "difference": ""},
        ),
    }


def _task(task: str) -> str:
    """Return the name of a task, and of the source whose questions alone are meant."""
    name, *source = task.split("/")
    return ", ".join([name.replace("_", " "), *source])


def name_of(figure: str) -> str:
    """Return the name of a figure for a reader."""
    kind, _, label = figure.partition(" ")
    return NAMES.get(figure, f"{kind.upper()} of {label}")


def _in_order(found: Mapping[str, Any]) -> dict[str, Any]:
    known = [name for name in NAMES if name in found]
    return {name: found[name] for name in (*known, *sorted(set(found) - set(known)))}


def _cells(figure: Mapping[str, Any] | None) -> list[str]:
    """Return value, questions and patients of a figure."""
    if figure is None:
        return [UNDEFINED, "0", "0"]
    if "not_run" in figure:
        return [f"{NOT_RUN}: {figure['not_run']}", "0", "0"]
    failed = f"; {figure['failed']} more without a verdict" if figure.get("failed") else ""
    return [show(figure), f"{figure['n']}{failed}", str(figure["patients"])]
