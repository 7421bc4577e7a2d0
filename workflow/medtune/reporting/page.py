"""The report: one HTML file that opens offline."""

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from medtune.evaluation.score import GIVEN_VALID
from medtune.files import HISTORY, MANIFEST, check_manifest, read_json, write_text
from medtune.media.overlay import TRUTH_COLOUR
from medtune.reporting.gallery import GalleryCase, build_case, choose
from medtune.reporting.gaming import gaming, warnings
from medtune.reporting.headline import headline, show
from medtune.reporting.html import render
from medtune.reporting.plots import COLOURS, MODE_NAMES, curves, metric_bars, term_names
from medtune.reporting.rollouts import last_rollouts
from medtune.schema import SPLITS, Sample, iterate, load_split
from medtune.stages import ReportStage
from medtune.tables import read_rows
from medtune.tasks import get_task

METRIC_NAMES = {
    "iou": "3-D IoU",
    "iou_50": "IoU ≥ 0.5",
    "peak_error": "peak slice error (frames)",
    "ratio_error": "ratio error",
    "no_tumor_correct": "tumour-free recognised",
    "reward": "reward",
    "valid": "valid answers",
    "iou_valid": "3-D IoU given a valid answer",
    "reward_valid": "reward given a valid answer",
}


def _cell(name: str, estimate: Any, signed: bool = False) -> str:
    """Return a metric as text; the number of cases stands where it differs between columns."""
    if estimate is None:
        return "-"
    cases = f", n {estimate['n']}" if name in GIVEN_VALID else ""
    return show(estimate, signed=signed) + cases


def _table(metrics: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return one row of texts per model and mode."""
    rows = []
    for model, modes in metrics["models"].items():
        for mode, values in modes.items():
            cells = [_cell(name, values[name]) for name in METRIC_NAMES]
            rows.append({"model": model, "mode": MODE_NAMES[mode], "cells": cells})
    return rows


def _comparisons(metrics: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return one row of texts per paired comparison, or "not run"."""
    rows = []
    for comparison, values in metrics["comparisons"].items():
        if values is None:
            rows.append({"name": comparison, "cells": ["not run"] * len(METRIC_NAMES)})
            continue
        cells = [_cell(name, values[name], signed=True) for name in METRIC_NAMES]
        rows.append({"name": comparison, "cells": cells})
    return rows


def _charts(metrics: Mapping[str, Any], sft: Any, grpo: Any) -> dict[str, Any]:
    terms = term_names(grpo)
    return {
        "iou": metric_bars(metrics, "iou", "mean 3-D IoU on held-out patients"),
        "reward": metric_bars(metrics, "reward", "mean reward on held-out patients"),
        "sft_loss": curves(sft, {"loss": "training", "eval_loss": "validation"}, "loss per token"),
        "grpo_reward": curves(grpo, {"reward": "reward"}, "mean reward of rollouts"),
        "grpo_terms": curves(grpo, {f"terms/{t}/mean": t for t in terms}, "mean of each term"),
        "grpo_spread": curves(
            grpo, {f"terms/{t}/group_std": t for t in terms}, "deviation within a group"
        ),
        "grpo_health": curves(
            grpo,
            {"entropy": "entropy per token", "frac_reward_zero_std": "groups without signal"},
            "",
        ),
        "grpo_answers": curves(
            grpo,
            {"answers/distinct": "differ in a group", "completions/clipped_ratio": "cut off"},
            "share of answers",
        ),
        "grpo_length": curves(grpo, {"completions/mean_length": "mean"}, "tokens per answer"),
    }


def _data_card(results: Path, dataset: Path) -> dict[str, Any]:
    verification = read_json(results / "index" / "verification.json")
    splits = []
    for split in SPLITS:
        samples = list(iterate(load_split(dataset, split, allow_empty=True)))
        sources = Counter(sample.source for sample in samples)
        splits.append(
            {
                "name": split,
                "samples": len(samples),
                "patients": len({sample.patient_id for sample in samples}),
                "without": sum(sample.truth["bbox_3d"] is None for sample in samples),
                "sources": ", ".join(f"{name} {n}" for name, n in sorted(sources.items())),
            }
        )
    return {"splits": splits, "verification": verification}


def _cases(
    stage: ReportStage, rows: Sequence[Mapping[str, Any]], results: Path
) -> list[GalleryCase]:
    dataset = results / "datasets"
    samples: dict[str, Sample] = {s.id: s for s in iterate(load_split(dataset, "test"))}
    task = get_task(stage.task)
    greedy = [row for row in rows if row["mode"] == "greedy"]
    last = [row for row in greedy if row["model"] == "grpo"]
    return [
        build_case(
            label,
            samples[name],
            [r for m in ("sft", "grpo") for r in greedy if r["id"] == name and r["model"] == m],
            task,
            dataset,
        )
        for label, name in choose(last, stage.report.cases)
    ]


def parents_of_report(results: Path) -> list[Path]:
    """Return what a report is made from, the manifests of folders first."""
    models = [results / name / MANIFEST for name in ("datasets", "base", "sft", "grpo")]
    return [*models, results / "eval/metrics.json", results / "index/verification.json"]


def write_report(stage: ReportStage, results: Path, output: Path) -> None:
    """Write the report of an experiment.

    Args:
        stage: The configuration.
        results: Folder of the experiment, with everything before the report.
        output: The HTML file.

    Raises:
        DataError: A model or the data set was changed since its manifest was written.
    """
    manifests = [path for path in parents_of_report(results) if path.name == MANIFEST]
    models = {path.parent.name: check_manifest(path) for path in manifests}
    del models["datasets"]
    metrics = read_json(results / "eval" / "metrics.json")
    metrics["models"] = {name: metrics["models"][name] for name in COLOURS}
    rows = read_rows(results / "eval" / "cases.parquet")
    history = {name: read_json(results / name / HISTORY) for name in ("sft", "grpo")}
    page = render(
        "report.html.jinja",
        _charts(metrics, history["sft"], history["grpo"]),
        title=stage.report.title,
        figures=headline(metrics),
        metric_names=list(METRIC_NAMES.values()),
        table=_table(metrics),
        comparisons=_comparisons(metrics),
        warnings=warnings(history["grpo"], metrics),
        gaming=gaming(metrics),
        rollouts=last_rollouts(results / "grpo"),
        data=_data_card(results, results / "datasets"),
        cases=_cases(stage, rows, results),
        colours=COLOURS | {"truth": TRUTH_COLOUR},
        models={
            name: {"config": json.dumps(m["config"], indent=1), **m} for name, m in models.items()
        },
    )
    write_text(output, page)
