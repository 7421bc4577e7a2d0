"""The report's charts, as Vega-Lite specifications."""

from collections.abc import Mapping, Sequence
from typing import Any

import altair as alt

COLOURS = {"constant": "#8a8f98", "base": "#c2a83e", "sft": "#e07b39", "grpo": "#3a7bd5"}
MODE_NAMES = {"greedy": "greedy", "sampled": "sampled (T = 1)", "shuffled": "other video"}


def _model_colour() -> alt.Color:
    scale = alt.Scale(domain=list(COLOURS), range=list(COLOURS.values()))
    return alt.Color("model:N", scale=scale, legend=None)


def metric_bars(metrics: Mapping[str, Any], name: str, title: str) -> dict[str, Any]:
    """Return bars with intervals of one metric by model and mode."""
    rows = []
    for model, modes in metrics["models"].items():
        for mode, values in modes.items():
            estimate = values[name]
            if estimate is not None:
                label = f"{model}, {MODE_NAMES[mode]}"
                rows.append({"label": label, "model": model, **estimate})
    base = alt.Chart(alt.Data(values=rows)).encode(
        y=alt.Y("label:N", title=None, sort=[row["label"] for row in rows])
    )
    tooltip = [alt.Tooltip(f"{key}:Q", format=".3f") for key in ("mean", "low", "high")]
    bars = base.mark_bar(height={"band": 0.6}).encode(
        x=alt.X("mean:Q", title=title, scale=alt.Scale(domain=[0, 1])),
        color=_model_colour(),
        tooltip=["label:N", *tooltip, "n:Q", "patients:Q"],
    )
    # Mid-grey: visible on the light and on the dark page.
    whiskers = base.mark_rule(strokeWidth=2, color="#6b7480").encode(
        x=alt.X("low:Q", title=title), x2="high:Q"
    )
    chart = (bars + whiskers).properties(width="container", height=26 * max(len(rows), 1))
    spec: dict[str, Any] = chart.to_dict()
    return spec


def curves(
    history: Sequence[Mapping[str, Any]], series: Mapping[str, str], title: str
) -> dict[str, Any]:
    """Return lines over optimiser steps.

    Args:
        history: Log entries of a training stage.
        series: Key in the log -> name in the legend.
        title: Title of the y axis.
    """
    rows = [
        {"step": entry["step"], "series": label, "value": float(entry[key])}
        for entry in history
        for key, label in series.items()
        if entry.get(key) is not None
    ]
    chart = (
        alt.Chart(alt.Data(values=rows))
        .mark_line(point={"size": 18})
        .encode(
            x=alt.X("step:Q", title="optimiser step"),
            y=alt.Y("value:Q", title=title, scale=alt.Scale(zero=False)),
            color=alt.Color("series:N", title=None, sort=list(series.values())),
            tooltip=["series:N", "step:Q", alt.Tooltip("value:Q", format=".4f")],
        )
        .properties(width="container", height=240)
    )
    spec: dict[str, Any] = chart.to_dict()
    return spec


def term_names(history: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return the reward terms a GRPO history has logged, in order."""
    found = dict.fromkeys(
        key.split("/")[1] for entry in history for key in entry if key.startswith("terms/")
    )
    return list(found)
