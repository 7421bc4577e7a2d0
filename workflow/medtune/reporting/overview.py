"""The tables of figures: one row per figure, for a page that sorts and filters them."""

from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel

from medtune.evaluation.directions import with_arrow
from medtune.reporting.numbers import NOT_RUN, UNDEFINED, p_text, show
from medtune.reporting.plots import mode_name

METRIC_NAMES = {
    "iou": "3-D IoU",
    "iou_30": "IoU ≥ 0.3",
    "iou_50": "IoU ≥ 0.5",
    "iou_70": "IoU ≥ 0.7",
    "giou": "generalized IoU",
    "center_mm": "distance of centers (mm)",
    "extent_x_mm": "error of width (mm)",
    "extent_y_mm": "error of depth (mm)",
    "extent_z_mm": "error of height (mm)",
    "peak_error": "peak slice error (frames)",
    "peak_within_3": "peak slice within 3",
    "peak_within_5": "peak slice within 5",
    "peak_within_10": "peak slice within 10",
    "ratio_error": "ratio error",
    "ratio_relative": "relative ratio error",
    "missed": "tumors missed",
    "no_tumor_correct": "tumor-free recognized",
    "false_positive": "tumor-free, tumor claimed",
    "decision_error": "wrong about a tumor",
    "decision_brier": "wrong about a tumor (Brier)",
    "reward": "reward",
    "valid": "valid answers",
    "truncated": "answers cut off",
    "iou_valid": "3-D IoU given a valid answer",
    "score": "score",
    "score_valid": "score given a valid answer",
    "reward_valid": "reward given a valid answer",
    "iou_lenient": "3-D IoU, leniently read",
    "score_lenient": "score, leniently read",
    "readable": "invalid answers that are readable",
}
MAIN = ("iou", "iou_lenient", "score", "score_lenient", "peak_error", "reward", "valid")


class Table(BaseModel):
    """A table that the page sorts and filters.

    Attributes:
        columns: Their heads.
        rows: Texts.
        filters: Columns with a choice of values -> the one chosen at first ("": all).
    """

    columns: list[str]
    rows: list[list[str]]
    filters: dict[str, str]

    def main(self) -> list[list[str]]:
        """Return the rows of the main metrics."""
        return [row for row in self.rows if row[0] in {metric_name(name) for name in MAIN}]


def metric_name(metric: str) -> str:
    """Return how a metric is called on the page, with an arrow (see `with_arrow`)."""
    name = METRIC_NAMES.get(metric, metric.replace("_", " "))
    if name.endswith(" lenient"):
        name = f"{name.removesuffix(' lenient')}, leniently read"
    return with_arrow(name, metric)


def _in_order(metrics: Mapping[str, Any]) -> list[str]:
    known = [name for name in METRIC_NAMES if name in metrics]
    return known + [name for name in metrics if name not in METRIC_NAMES]


def _counts(estimate: Any) -> list[str]:
    return [str(estimate[key]) for key in ("n", "patients")] if estimate else ["0", "0"]


def _value(estimate: Any, signed: bool = False) -> str:
    return show(estimate, signed=signed)


def figure_table(models: Mapping[str, Any], main: str) -> Table:
    """Return every metric by model and way of answering."""
    rows = [
        [metric_name(name), model, mode_name(mode), _value(values[name]), *_counts(values[name])]
        for model, modes in models.items()
        for mode, values in modes.items()
        for name in _in_order(values)
    ]
    columns = ["metric", "model", "answers", "mean [interval]", "cases", "patients"]
    return Table(
        columns=columns,
        rows=rows,
        filters={"metric": metric_name(main), "model": "", "answers": ""},
    )


def comparison_table(comparisons: Mapping[str, Any], main: str) -> Table:
    """Return every metric's difference by comparison; one that was not run is one row."""
    rows = []
    for comparison, values in comparisons.items():
        for name in _in_order(values or {main: None, "reward": None}):
            estimate = (values or {}).get(name)
            told = NOT_RUN if values is None else _value(estimate, signed=True)
            tests = [p_text(estimate, key, 3) for key in ("p", "p_holm")]
            tests += [_test(estimate, key) for key in ("effect", "detectable")]
            tests = [NOT_RUN] * len(tests) if values is None else tests
            is_primary = estimate["primary"] if estimate else values is None
            kind = "primary" if is_primary else "secondary"
            rows.append([metric_name(name), comparison, told, kind, *tests, _counts(estimate)[0]])
    tests = ["endpoint", "p", "p after Holm", "effect (d)", "detectable"]
    columns = ["metric", "difference", "mean [interval]", *tests, "cases"]
    return Table(
        columns=columns, rows=rows, filters={"metric": metric_name(main), "difference": ""}
    )


def _test(estimate: Any, key: str) -> str:
    found = estimate and estimate.get(key)
    return UNDEFINED if found is None else f"{found:.3g}"


def group_table(
    groups: Mapping[str, Any], main: str, small: Mapping[str, Mapping[str, int]] | None = None
) -> Table:
    """Return the main metrics of greedy answers by groups of cases.

    Args:
        groups: Estimates by kind and group: source, size, side and those of a user's table.
        main: The task's main metric.
        small: Numbers of patients of groups that nothing is estimated of, by kind and group.
    """
    rows = [
        [metric_name(name), kind, value, model, _value(modes["greedy"][name])]
        + _counts(modes["greedy"][name])
        for kind, values in groups.items()
        for value, models in values.items()
        for model, modes in models.items()
        for name in MAIN
        if name in modes.get("greedy", {})
    ]
    models = dict.fromkeys(row[3] for row in rows)
    rows += [
        [metric_name(main), kind, value, model, "too few patients", "", str(patients)]
        for kind, values in (small or {}).items()
        for value, patients in values.items()
        for model in models
    ]
    columns = ["metric", "by", "group", "model", "mean [interval]", "cases", "patients"]
    return Table(
        columns=columns, rows=rows, filters={"metric": metric_name(main), "by": "", "model": "grpo"}
    )
