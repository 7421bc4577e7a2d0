"""Where the time of a training went, and its memory: a page of its own, for no two runs agree."""

import json
from collections import Counter
from pathlib import Path
from typing import Any

import altair as alt

from medtune.reporting.html import render
from medtune.reporting.plots import curves

STAGES = ("sft", "grpo")
PHASES = {
    "data": "reading media and making batches",
    "rollout": "sampling answers (with vLLM: handing it the weights, too)",
    "reward": "scoring answers",
    "logps": "log-probabilities before the update",
    "update": "forward and backward passes, optimiser",
    "evaluation": "validation",
    "saving": "checkpoints",
    "other": "the rest: start, logging, waiting",
}


def read_timing(results: Path, stage: str) -> list[dict[str, Any]]:
    """Return the lines that a training has written of its time; none if they were not kept."""
    file = results / f"{stage}.timing.jsonl"
    if not file.is_file():
        return []
    return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]


def _areas(lines: list[dict[str, Any]]) -> dict[str, Any]:
    """Return seconds per step by phase, one upon the other."""
    rows, before = [], 0
    for line in lines:
        steps = line["step"] - before
        before = line["step"]
        if steps > 0:
            shares = line["seconds"].items()
            rows += [{"step": before, "phase": n, "seconds": s / steps} for n, s in shares]
    spec: dict[str, Any] = (
        alt.Chart(alt.Data(values=rows))
        .mark_bar()
        .encode(
            x=alt.X("step:O", title="optimiser step", axis=alt.Axis(labelOverlap=True)),
            y=alt.Y("seconds:Q", title="seconds per step"),
            color=alt.Color(
                "phase:N", title=None, sort=list(PHASES), legend=alt.Legend(orient="top", columns=4)
            ),
            tooltip=["phase:N", "step:O", alt.Tooltip("seconds:Q", format=".3f")],
        )
        .properties(width="container", height=240)
        .to_dict()
    )
    return spec


def timing_page(results: Path, title: str) -> str:
    """Return the page: seconds by phase, and host memory, of SFT and GRPO."""
    stages, charts = [], {}
    for stage in STAGES:
        lines = read_timing(results, stage)
        total: Counter[str] = Counter()
        for line in lines:
            total.update(line["seconds"])
        whole = sum(total.values())
        rows = [
            [name, PHASES.get(name, ""), f"{s:.1f}", f"{100 * s / whole:.1f} %"]
            for name, s in total.most_common()
        ]
        stages.append({"name": stage, "rows": rows, "hours": f"{whole / 3600:.2f}"})
        if lines:
            charts[f"{stage}_seconds"] = _areas(lines)
            charts[f"{stage}_memory"] = curves(
                lines, {"host_mb": "largest so far"}, "MiB of one process"
            )
    return render("timing.html.jinja", charts, title=title, stages=stages)
