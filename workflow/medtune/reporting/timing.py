"""Where time, memory and energy of a training went: a page of its own, for no two runs agree."""

import json
from collections import Counter
from pathlib import Path
from typing import Any

import altair as alt

from medtune.reporting.html import render
from medtune.reporting.plots import curves
from medtune.runtime.console import duration

STAGES = ("sft", "grpo")
WATT_HOUR = 3600  # joules
MEMORY = {
    "host_mb": "host (so far)",
    "gpu_mb": "GPU, used by PyTorch",
    "gpu_reserved_mb": "GPU, held by PyTorch",
}
PHASES = {
    "data": "reading media and making batches",
    "sync": "handing the weights to vLLM",
    "rollout": "sampling answers",
    "reward": "scoring answers",
    "logps": "log-probabilities before the update",
    "update": "forward and backward passes, optimizer",
    "evaluation": "validation",
    "saving": "checkpoints",
    "other": "the rest: start, logging, waiting",
}


def read_timing(results: Path, stage: str) -> list[dict[str, Any]]:
    """Return the lines that a training has written (see `Timing`); none if they were not kept."""
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
            x=alt.X("step:O", title="optimizer step", axis=alt.Axis(labelOverlap=True)),
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


def _sums(lines: list[dict[str, Any]], meter: str | None = None) -> Counter[str]:
    """Return seconds by phase over all lines, or the joules of a meter."""
    total: Counter[str] = Counter()
    for line in lines:
        total.update(line.get("joules", {}).get(meter, {}) if meter else line["seconds"])
    return total


def _energy(lines: list[dict[str, Any]], begins: list[dict[str, Any]], meter: str) -> str:
    """Return the energy that a meter has counted, and why it has not, at times or on a machine."""
    reasons = dict.fromkeys(b["not_measured"][meter] for b in begins if meter in b["not_measured"])
    lacking = f"not measured: {'; '.join(reasons)}" if reasons else ""
    if not any(meter in line.get("joules", {}) for line in lines):
        return lacking or "not recorded"
    measured = f"{sum(_sums(lines, meter).values()) / WATT_HOUR:.3g} Wh"
    return f"{measured}, and in part {lacking}" if lacking else measured


def _machines(begins: list[dict[str, Any]]) -> str:
    """Return in words what a training has run on, one after the other if it was several."""
    told = dict.fromkeys(
        "{} cores of {}, {} GiB of memory, {}".format(
            one["cores"], one["cpu"], one["memory_gb"], " and ".join(one["gpus"]) or "no GPU"
        )
        for begin in begins
        for one in begin["machines"]
    )
    return "; ".join(told)


def _stage(results: Path, name: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return what the page shows of a stage, and its charts."""
    written = read_timing(results, name)
    begins = [line for line in written if "begin" in line]
    lines = [line for line in written if "begin" not in line]
    seconds, gpu, cpu = (_sums(lines, meter) for meter in (None, "gpu", "cpu"))
    whole, parts = sum(seconds.values()), len(begins)
    rows = [
        [phase, PHASES.get(phase, ""), f"{s:.1f}", f"{100 * s / whole:.1f} %"]
        + [f"{own[phase] / WATT_HOUR:.3g}" if own else "-" for own in (gpu, cpu)]
        for phase, s in seconds.most_common()
    ]
    largest = [
        f"{max(line[key] for line in lines if key in line) / 1024:.1f} GiB of the {words}"
        for key, words in MEMORY.items()
        if any(key in line for line in lines)
    ]
    if not any("gpu_mb" in line for line in lines):
        largest.append("GPU: not run")
    facts = {
        "machine": _machines(begins),
        "time": duration(whole) + (f", in {parts} parts" if parts > 1 else ""),
        "largest memory": "; ".join(largest),
        "energy of GPUs": _energy(lines, begins, "gpu"),
        "energy of processors": _energy(lines, begins, "cpu"),
    }
    charts: dict[str, Any] = {}
    if lines:
        charts[f"{name}_seconds"] = _areas(lines)
        charts[f"{name}_memory"] = curves(lines, MEMORY, "MiB of one process")
    return {"name": name, "rows": rows, "facts": facts}, charts


def timing_page(results: Path, title: str) -> str:
    """Return the page: machine, seconds by phase, memory and energy, of SFT and GRPO."""
    found = [_stage(results, name) for name in STAGES]
    charts = {name: chart for _, own in found for name, chart in own.items()}
    stages = [stage for stage, _ in found]
    return render("timing.html.jinja", charts, title=title, stages=stages)
