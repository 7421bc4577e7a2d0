"""The report's charts, as Vega-Lite specifications."""

from collections.abc import Mapping, Sequence
from typing import Any

import altair as alt
import numpy as np

COLORS = {"base": "#c2a83e", "sft": "#e07b39", "grpo": "#3a7bd5"}
OTHER_COLOR = "#8a8f98"  # baselines, and models that the page does not know
MODE_NAMES = {
    "greedy": "greedy",
    "sampled": "sampled (T = 1)",
    "shuffled": "other video",
    "best_of_n": "best of n",
    "majority": "majority",
}


def mode_name(mode: str) -> str:
    """Return how a way of answering is called on the page."""
    return MODE_NAMES.get(mode, mode.replace("_", " "))


def _model_color(models: Sequence[str]) -> alt.Color:
    colors = [COLORS.get(model, OTHER_COLOR) for model in models]
    return alt.Color("model:N", scale=alt.Scale(domain=list(models), range=colors), legend=None)


def metric_bars(
    metrics: Mapping[str, Any], name: str, title: str, modes: Sequence[str]
) -> dict[str, Any]:
    """Return bars with intervals of one metric by model and mode, for a scale of 0 to 1."""
    rows = [
        {"label": f"{model}, {mode_name(mode)}", "model": model, **values[name]}
        for model, by_mode in metrics["models"].items()
        for mode, values in by_mode.items()
        if mode in modes and values.get(name) is not None
    ]
    base = alt.Chart(alt.Data(values=rows)).encode(
        y=alt.Y("label:N", title=None, sort=[row["label"] for row in rows])
    )
    tooltip = [alt.Tooltip(f"{key}:Q", format=".3f") for key in ("mean", "low", "high")]
    bars = base.mark_bar(height={"band": 0.6}).encode(
        x=alt.X("mean:Q", title=title, scale=alt.Scale(domain=[0, 1])),
        color=_model_color(list(metrics["models"])),
        tooltip=["label:N", *tooltip, "n:Q", "patients:Q"],
    )
    # Mid-gray: visible on the light and on the dark page.
    whiskers = base.mark_rule(strokeWidth=2, color="#6b7480").encode(
        x=alt.X("low:Q", title=title), x2="high:Q"
    )
    chart = (bars + whiskers).properties(width="container", height=24 * max(len(rows), 1))
    spec: dict[str, Any] = chart.to_dict()
    return spec


def curves(
    history: Sequence[Mapping[str, Any]], series: Mapping[str, str], title: str
) -> dict[str, Any]:
    """Return lines over optimizer steps.

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
    legend = alt.Legend(orient="top", columns=2) if len(series) > 1 else None
    chart = (
        alt.Chart(alt.Data(values=rows))
        .mark_line(point={"size": 18})
        .encode(
            x=alt.X("step:Q", title="optimizer step"),
            y=alt.Y("value:Q", title=title, scale=alt.Scale(zero=False)),
            color=alt.Color("series:N", title=None, sort=list(series.values()), legend=legend),
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


def bin_edges(values: Sequence[float], least: float, log: bool = False) -> list[float]:
    """Return the edges of ten to forty bins of a round width that hold all values.

    Equal values stand in the middle, so that their bar does not fill the chart.

    Args:
        values: At least one number; none negative, or 0 if `log`.
        least: Smallest width of a bin (of its decimal logarithm if `log`).
        log: Whether bins are equally wide in the logarithm.
    """
    shown = np.log10(values) if log else np.asarray(values, dtype=float)
    low, high = float(shown.min()), float(shown.max())
    wanted = max((high - low) / 20, least)
    decade = 10 ** np.floor(np.log10(wanted))
    width = float(min(n * decade for n in (1, 2, 5, 10) if n * decade >= wanted * (1 - 1e-9)))
    first, last = np.floor(low / width + 1e-9), np.floor(high / width + 1e-9)
    padding = max(0, -int(last - first - 9) // 2)
    first, last = first - padding if log else max(0, first - padding), last + padding
    edges = np.arange(first, last + 2) * width
    rounded: list[float] = (10**edges if log else edges.round(9)).tolist()
    return rounded


def histogram(
    series: Mapping[str, Sequence[float]], title: str, least: float, log: bool = False
) -> dict[str, Any]:
    """Return a histogram of cases; several series stand side by side in each bin.

    Args:
        series: Name in the legend -> one value per case; not all may be empty.
        title: Title of the x axis.
        least: Smallest width of a bin; see `bin_edges`.
        log: Whether the x axis is logarithmic.
    """
    edges = bin_edges([value for values in series.values() for value in values], least, log)
    rows = []
    for number, (name, values) in enumerate(series.items()):
        # A value on an edge belongs to the bin above it, whatever its last digit says.
        counts, _ = np.histogram(np.asarray(values) * (1 + 1e-9), edges)
        for low, high, count in zip(edges[:-1], edges[1:], counts.tolist(), strict=True):
            if count:
                step = (high - low) / len(series)
                bar = {"from": low + number * step, "to": low + (number + 1) * step}
                rows.append({"bin": f"{low:.4g} to {high:.4g}", "series": name, "n": count} | bar)
    # Vega drops labels of a logarithmic axis where they are dense, 100 before 90.
    ticks = [n * 10.0**decade for decade in range(-6, 7) for n in (1, 2, 5)] if log else []
    axis = alt.Axis(values=[t for t in ticks if edges[0] <= t <= edges[-1]]) if log else alt.Axis()
    scale = alt.Scale(type="log" if log else "linear", domain=[edges[0], edges[-1]], nice=False)
    legend = alt.Legend(orient="top", offset=8)
    color = alt.Color("series:N", title=None, sort=list(series), legend=legend)
    chart = (
        alt.Chart(alt.Data(values=rows))
        .mark_bar(binSpacing=1)
        .encode(
            x=alt.X("from:Q", bin="binned", title=title, scale=scale, axis=axis),
            x2="to:Q",
            y=alt.Y("n:Q", title="cases", axis=alt.Axis(tickMinStep=1)),
            color=color if len(series) > 1 else alt.value(COLORS["grpo"]),
            tooltip=[alt.Tooltip("bin:N", title=title), "series:N", alt.Tooltip("n:Q")],
        )
        .properties(width="container", height=200)
    )
    spec: dict[str, Any] = chart.to_dict()
    return spec
