"""The reliability curve: how often sampled answers find a tumor, and how often there is one."""

from collections.abc import Mapping
from typing import Any

import altair as alt

from medtune.reporting.numbers import show
from medtune.reporting.overview import Table
from medtune.reporting.plots import COLORS, OTHER_COLOR


def summary_table(metrics: Mapping[str, Any]) -> list[list[str]]:
    """Return a row by model: calibration error, Brier score, cases, and those without a tumor."""
    return [
        [
            model,
            show(found["error"]),
            show(metrics["models"][model]["sampled"]["decision_brier"]),
            str(found["cases"]),
            str(found["without"]),
        ]
        for model, found in metrics["calibration"].items()
    ]


def bin_table(metrics: Mapping[str, Any]) -> Table:
    """Return a row by model and bin."""
    rows = [
        [
            model,
            f"{one['above']:.1f} to {one['below']:.1f}",
            f"{one['said']:.3f}",
            show({"mean": one["true"], "low": one["low"], "high": one["high"]}),
            *(str(one[count]) for count in ("n", "patients")),
            f"{100 * one['valid']:.1f} %",
        ]
        for model, found in metrics["calibration"].items()
        for one in found["bins"]
    ]
    ends = ["cases", "patients", "valid answers"]
    columns = ["model", "draws that find one", "mean of these", "have a tumor [interval]", *ends]
    return Table(columns=columns, rows=rows, filters={"model": ""})


def reliability(model: str, found: Mapping[str, Any]) -> dict[str, Any]:
    """Return the curve of a model over the diagonal of perfect calibration."""
    unit = alt.Scale(domain=[0, 1])
    title = "share of cases that have one"
    x = alt.X("said:Q", title="share of sampled answers that find a tumor", scale=unit)
    value = alt.Y("true:Q", title=title, scale=unit)
    base = alt.Chart(alt.Data(values=found["bins"])).encode(x=x)
    numbers = [alt.Tooltip(f"{key}:Q", format=".3f") for key in ("said", "true", "low", "high")]
    color = COLORS.get(model, OTHER_COLOR)
    points = base.mark_line(color=color, point={"size": 60, "color": color}).encode(
        y=value, tooltip=[*numbers, "n:Q", "patients:Q"]
    )
    whiskers = base.mark_rule(strokeWidth=2, opacity=0.6, color=color).encode(
        y=alt.Y("low:Q", title=title, scale=unit), y2="high:Q"
    )
    ends = alt.Data(values=[{"said": end, "true": end} for end in (0, 1)])
    diagonal = alt.Chart(ends).mark_line(strokeDash=[4, 4], color="#8a8f98").encode(x=x, y=value)
    chart = (diagonal + whiskers + points).properties(width="container", height=320)
    spec: dict[str, Any] = chart.to_dict()
    return spec
