"""The tables of figures of whole tasks, with the reason where a figure was not run."""

from collections.abc import Mapping
from typing import Any

from medtune.reporting.headline import NOT_RUN, show
from medtune.reporting.overview import Table
from medtune.scores.text import ORDERS

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
    "radcliq": "RadCliQ, canonical (lower is better)",
    "radcliq_published": "RadCliQ, as published (lower is better)",
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


def corpus_tables(metrics: Mapping[str, Any]) -> dict[str, Table]:
    """Return the tables `figures`, and `comparisons` of the stages, and `short`, without labels.

    Args:
        metrics: What `score` wrote.
    """
    figures = [
        [_name(name), task.replace("_", " "), model, *_cells(figure)]
        for task, models in metrics["corpus"].items()
        for model, found in models.items()
        for name, figure in _in_order(found).items()
    ]
    changes = [
        [_name(name), task.replace("_", " "), pair, show(change, signed=True)]
        + ["-" if change[key] is None else f"{change[key]:.3g}" for key in ("p", "p_holm")]
        + ["-" if change["detectable"] is None else f"{change['detectable']:.3g}", str(change["n"])]
        for task, pairs in metrics.get("corpus_comparisons", {}).items()
        for pair, found in pairs.items()
        for name, change in _in_order(found).items()
    ]
    columns = ["figure", "task", "model", "value [interval]", "questions", "patients"]
    tests = ["p", "p after Holm", "detectable", "questions"]
    main = [row for row in figures if row[0] in NAMES.values()]
    return {
        "figures": Table(
            columns=columns, rows=figures, filters={"figure": "", "task": "", "model": ""}
        ),
        "short": Table(columns=columns, rows=main, filters={}),
        "comparisons": Table(
            columns=["figure", "task", "difference", "value [interval]", *tests],
            rows=changes,
            filters={"figure": "", "task": "", "difference": ""},
        ),
    }


def _name(figure: str) -> str:
    kind, _, label = figure.partition(" ")
    return NAMES.get(figure, f"{kind.upper()} of {label}")


def _in_order(found: Mapping[str, Any]) -> dict[str, Any]:
    known = [name for name in NAMES if name in found]
    return {name: found[name] for name in (*known, *sorted(set(found) - set(known)))}


def _cells(figure: Mapping[str, Any] | None) -> list[str]:
    """Return value, questions and patients of a figure."""
    if figure is None:
        return ["not applicable", "0", "0"]
    if "not_run" in figure:
        return [f"{NOT_RUN}: {figure['not_run']}", "0", "0"]
    failed = f"; {figure['failed']} more without a verdict" if figure.get("failed") else ""
    return [show(figure), f"{figure['n']}{failed}", str(figure["patients"])]
