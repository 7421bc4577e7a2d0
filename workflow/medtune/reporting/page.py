"""The report: one HTML file that opens offline, the same in Markdown, and a page of times."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import vl_convert

from medtune.config.evaluation import BASELINES
from medtune.config.stages import ReportStage
from medtune.evaluation.blind_answers import CONSTANT
from medtune.evaluation.directions import with_arrow
from medtune.media.overlay import TRUTH_COLOR
from medtune.records.sample import iterate, load_split
from medtune.reporting.answers import signs
from medtune.reporting.calibration import bin_table, reliability, summary_table
from medtune.reporting.cards import data_card, lineage_text, model_card
from medtune.reporting.corpus import corpus_tables
from medtune.reporting.diagnostics import diagnostics
from medtune.reporting.failures import failed_answers
from medtune.reporting.gallery import gallery
from medtune.reporting.html import render, render_markdown
from medtune.reporting.key_results import headline
from medtune.reporting.overview import comparison_table, figure_table, group_table
from medtune.reporting.pass_at_k import pass_table
from medtune.reporting.plots import COLORS, OTHER_COLOR, metric_bars
from medtune.reporting.report_labels import ReportLabels, words_for
from medtune.reporting.reward_hacking import gaming, warnings
from medtune.reporting.rollouts import last_rollouts
from medtune.reporting.timing import timing_page
from medtune.runtime.files import HISTORY, MANIFEST, check_manifest, read_json, write_text
from medtune.runtime.tables import read_rows
from medtune.tasks import get_task

TRAINED = ("base", "sft", "grpo")
MARKDOWN, FIGURE, TIMES = "report.md", "iou.svg", "report.timing.html"


def parents_of_report(results: Path) -> list[Path]:
    """Return what a report is made from, the manifests of folders first."""
    models = [results / name / MANIFEST for name in ("datasets", *TRAINED)]
    return [*models, results / "eval/metrics.json", results / "index/verification.json"]


def in_order(models: Mapping[str, Any]) -> dict[str, Any]:
    """Return baselines, further models, and those of training in its order."""
    first = [name for name in (CONSTANT, *BASELINES) if name in models]
    last = [name for name in TRAINED if name in models]
    rest = sorted(set(models) - {*first, *last})
    return {name: models[name] for name in (*first, *rest, *last)}


def answered(rows: Sequence[Mapping[str, Any]]) -> dict[str, list[Mapping[str, Any]]]:
    """Return the greedy answers of each model, without the baselines."""
    models: dict[str, list[Mapping[str, Any]]] = {}
    for row in rows:
        if row["mode"] == "greedy" and row["model"] not in (CONSTANT, *BASELINES):
            models.setdefault(row["model"], []).append(row)
    return in_order(models)


def _answers(
    stage: ReportStage, results: Path, metrics: Mapping[str, Any], words: ReportLabels
) -> dict[str, Any]:
    """Return the gallery, how answers fail, the table of signs in them and their warnings."""
    models = answered(read_rows(results / "eval" / "cases.parquet"))
    task, dataset = get_task(stage.task), results / "datasets"
    samples = {sample.id: sample for sample in iterate(load_split(dataset, "test"))}
    found = {model: signs(model, rows, samples, task) for model, rows in models.items()}
    return {
        "failures": failed_answers(metrics, models, words),
        "signs": [cells for cells, _ in found.values()],
        # What nobody has trained may babble.
        "warnings": [
            text for name, (_, texts) in found.items() if name != "base" for text in texts
        ],
        "cases": gallery(models, stage.report.cases, task, dataset),
        "shown": {name: COLORS.get(name, OTHER_COLOR) for name in ("truth", *models)}
        | {"truth": TRUTH_COLOR},
    }


def files_of_report(output: Path) -> list[Path]:
    """Return the files of a report that depend on what it is made from alone: not the times."""
    return [output, *(output.with_name(name) for name in (MARKDOWN, FIGURE))]


def write_report(stage: ReportStage, results: Path, output: Path) -> None:
    """Write the report of an experiment.

    Args:
        stage: The configuration.
        results: Folder of the experiment, with everything before the report.
        output: The HTML file; `report.md`, `iou.svg` and `report.timing.html` come beside it.

    Raises:
        DataError: A model or the data set was changed since its manifest was written.
    """
    manifests = [path for path in parents_of_report(results) if path.name == MANIFEST]
    models = {path.parent.name: check_manifest(path) for path in manifests}
    metrics = read_json(results / "eval" / "metrics.json")
    metrics["models"] = in_order(metrics["models"])
    corpus = metrics.get("corpus", {})
    metrics["corpus"] = {task: in_order(found) for task, found in corpus.items()}
    history = {name: read_json(results / name / HISTORY) for name in ("sft", "grpo")}
    words = words_for(metrics)
    figures, charts = diagnostics(history["sft"], history["grpo"], words.main)
    heading = with_arrow(f"mean {words.name} on held-out patients", words.main)
    bars = metric_bars(metrics, words.main, heading, ("greedy", "shuffled"))
    charts |= {"iou": bars}
    metrics["calibration"] = in_order(metrics["calibration"])
    for name, found in metrics["calibration"].items():
        charts[f"reliability_{name}"] = reliability(name, found)
    answers = _answers(stage, results, metrics, words)
    values = answers | {
        "title": stage.report.title,
        "words": words,
        "figures": headline(metrics),
        "table": figure_table(metrics["models"], words.main),
        "comparisons": comparison_table(metrics["comparisons"], words.main),
        "groups": group_table(metrics["groups"], words.main, metrics.get("small_groups")),
        "corpus": corpus_tables(metrics),
        "warnings": [
            *warnings(history["grpo"], metrics),
            *metrics["systematic_errors"],
            *answers["warnings"],
        ],
        "diagnostics": figures,
        "gaming": gaming(metrics),
        "calibration": {"rows": summary_table(metrics), "bins": bin_table(metrics)},
        "passes": pass_table(metrics),
        "pass_rule": metrics.get("pass_at"),
        "rollouts": last_rollouts(results / "grpo"),
        "data": data_card(results),
        "models": {name: model_card(results, name, models[name]) for name in TRAINED},
        "lineage": lineage_text(results / "eval" / "metrics.json"),
    }
    written = {
        MARKDOWN: render_markdown("report.md.jinja", **values),
        FIGURE: vl_convert.vegalite_to_svg(bars | {"width": 600, "background": "white"}),
        TIMES: timing_page(results, stage.report.title),
        output.name: render("report.html.jinja", charts, **values),
    }
    for name, text in written.items():
        write_text(output.with_name(name), text)
