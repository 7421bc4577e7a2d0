"""Scores of all predictions: metrics with intervals, and paired comparisons of stages."""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

from medtune.console import say, track
from medtune.evaluation.predictions import read_predictions
from medtune.evaluation.probes import CONSTANT, habits, hollow_rows
from medtune.evaluation.statistics import Estimate, cluster_bootstrap
from medtune.files import MANIFEST, check_manifest, read_json, write_json
from medtune.models.dialect import DIALECTS
from medtune.rewards.base import saved_failures, score_all
from medtune.schema import Sample, iterate, load_split
from medtune.stages import ScoreStage
from medtune.tables import write_rows
from medtune.tasks import get_task, get_terms

TOGETHER = 64  # answers that batched and async reward terms get at once
ANSWER = ("id", "family", "mode", "draw", "video_of", "text", "ended")
# Metrics over valid answers alone, beside those that count an invalid one as a miss.
GIVEN_VALID = {"iou_valid": "iou", "reward_valid": "reward"}
SHOWN = ("iou", "peak_error", "reward", "valid")  # by `dvc metrics show`
# (better, worse, mode): what the report must answer.
COMPARISONS = (
    ("sft", CONSTANT, "greedy"),
    ("sft", "base", "greedy"),
    ("grpo", "sft", "greedy"),
    ("grpo", "sft", "sampled"),
)


def score_rows(
    stage: ScoreStage,
    model: str,
    rows: Sequence[Mapping[str, Any]],
    samples: Mapping[str, Sample],
) -> list[dict[str, Any]]:
    """Return one scored row per prediction: metrics, reward, reward terms, reason if invalid.

    The metrics of `GIVEN_VALID` are None for an invalid answer.
    """
    task = get_task(stage.task)
    terms = get_terms(task, stage.reward, stage.reward_sha256)
    answers = [task.judge(r["text"], samples[r["id"]], DIALECTS[r["family"]]) for r in rows]
    rewards = []
    for start in range(0, len(answers), TOGETHER):
        rewards += score_all(terms, answers[start : start + TOGETHER])
    scored = []
    for row, judged, (total, parts) in zip(rows, answers, rewards, strict=True):
        metrics = {"reward": total} | task.measure(judged)
        scored.append(
            {"model": model, "patient_id": judged.sample.patient_id}
            | {key: row[key] for key in ANSWER}
            | {"reason": judged.reason}
            | {f"term_{name}": value for name, value in parts.items()}
            | metrics
            | {key: metrics[of] if judged.answer else None for key, of in GIVEN_VALID.items()}
        )
    return scored


def per_case(scored: Iterable[Mapping[str, Any]], metric: str) -> dict[str, tuple[str, float]]:
    """Return (patient, mean over draws) of a metric for every case where it applies."""
    values: dict[str, list[float]] = defaultdict(list)
    patient = {}
    for row in scored:
        if row[metric] is not None:
            values[row["id"]].append(row[metric])
            patient[row["id"]] = row["patient_id"]
    return {name: (patient[name], fmean(draws)) for name, draws in values.items()}


def _estimate(pairs: Sequence[tuple[str, float]], stage: ScoreStage) -> Estimate | None:
    evaluation = stage.evaluation
    return cluster_bootstrap(
        [value for _, value in pairs],
        [patient for patient, _ in pairs],
        evaluation.resamples,
        evaluation.confidence,
        stage.seed,
    )


def summarise(scored: Sequence[Mapping[str, Any]], stage: ScoreStage) -> dict[str, Any]:
    """Return estimates of every metric by model and mode, and the paired comparisons.

    A metric that applies to no case, or a comparison of something not run, is None. `n` of an
    estimate says how many cases it is over.
    """
    about = {"model", "patient_id", "reason", *ANSWER}
    metrics = [key for key in scored[0] if key not in about]
    groups: dict[tuple[str, str], list[Mapping[str, Any]]] = defaultdict(list)
    for row in scored:
        groups[row["model"], row["mode"]].append(row)
    models: dict[str, Any] = defaultdict(dict)
    for (model, mode), rows in groups.items():
        models[model][mode] = {
            metric: _dump(_estimate(list(per_case(rows, metric).values()), stage))
            for metric in metrics
        }
    comparisons = {}
    for better, worse, mode in COMPARISONS:
        pair = groups.get((better, mode)), groups.get((worse, mode))
        comparisons[f"{better} - {worse}, {mode}"] = (
            {metric: _difference(pair[0], pair[1], metric, stage) for metric in metrics}
            if pair[0] and pair[1]
            else None
        )
    return {"models": models, "comparisons": comparisons}


def _difference(
    better: Sequence[Mapping[str, Any]],
    worse: Sequence[Mapping[str, Any]],
    metric: str,
    stage: ScoreStage,
) -> Any:
    """Return the estimate of better - worse over the cases of both.

    They are the same cases, except under `GIVEN_VALID`: there, those that both answer validly.
    """
    first, second = per_case(better, metric), per_case(worse, metric)
    cases = first.keys() & second.keys() if metric in GIVEN_VALID else first.keys()
    pairs = [(first[name][0], first[name][1] - second[name][1]) for name in sorted(cases)]
    return _dump(_estimate(pairs, stage))


def _hollow(stage: ScoreStage, earned: Mapping[str, Sequence[Mapping[str, Any]]]) -> dict[str, Any]:
    """Return what hollow answers earn, alone and over the constant one."""
    constant = earned[CONSTANT]
    return {
        name: {
            "reward": _dump(_estimate(list(per_case(rows, "reward").values()), stage)),
            "over_constant": _difference(rows, constant, "reward", stage),
        }
        for name, rows in earned.items()
    }


def _dump(estimate: Estimate | None) -> Any:
    return estimate.model_dump() if estimate else None


def score(
    stage: ScoreStage,
    dataset: Path,
    predictions: Sequence[Path],
    metrics: Path,
    cases: Path,
) -> None:
    """Score the predictions of every model and the constant baseline.

    What a reward term fails on is saved beside `metrics`.

    Args:
        stage: The configuration.
        dataset: Folder of the data set.
        predictions: Folder of each model's answers.
        metrics: JSON that is written: see `summarise`; `hollow` holds what answers earn that need
            no video (see `probes`), and `habits` how often each model gives them.
        cases: Table of all scored rows that is written.
    """
    check_manifest(dataset / MANIFEST)
    test = list(iterate(load_split(dataset, "test")))
    samples = {sample.id: sample for sample in test}
    tables = read_predictions(predictions)
    family = next(iter(tables.values()))[0]["family"]
    hollow = hollow_rows(get_task(stage.task), family, iterate(load_split(dataset, "train")), test)
    with saved_failures(metrics.with_suffix("")):
        earned = {name: score_rows(stage, name, rows, samples) for name, rows in hollow.items()}
        scored = list(earned[CONSTANT])
        for model, rows in track(tables.items(), "score models", len(tables)):
            scored += score_rows(stage, model, rows, samples)
    summary = summarise(scored, stage)
    summary["hollow"] = _hollow(stage, earned)
    summary["habits"] = {
        model: habits(get_task(stage.task), greedy, hollow, samples)
        for model, rows in tables.items()
        if (greedy := [row for row in rows if row["mode"] == "greedy"])
    }
    write_rows(cases, scored)
    write_json(metrics, summary)
    for model, modes in summary["models"].items():
        say(f"{model}: " + "  ".join(f"{m} IoU {_mean(v['iou'])}" for m, v in modes.items()))


def write_means(metrics: Path, means: Path) -> None:
    """Write the means of greedy answers alone, few enough to compare versions by.

    Args:
        metrics: JSON that `score` wrote.
        means: JSON that is written: model -> metric of `SHOWN` -> mean.
    """
    found = {}
    for model, modes in read_json(metrics)["models"].items():
        estimates = {name: modes["greedy"][name] for name in SHOWN}
        found[model] = {name: estimate["mean"] for name, estimate in estimates.items() if estimate}
    write_json(means, found)


def _mean(estimate: Any) -> str:
    return "not applicable" if estimate is None else f"{estimate['mean']:.3f}"
