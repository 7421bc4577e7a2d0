"""Scores of all predictions: metrics with intervals, and paired comparisons of stages."""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from medtune.config.evaluation import BASELINES
from medtune.config.stages import ScoreStage
from medtune.evaluation.blind_answers import CONSTANT, blind_rows, degenerate_answer_rates
from medtune.evaluation.calibration import calibration
from medtune.evaluation.corpus import answers_of, corpus, missing
from medtune.evaluation.corpus_metrics import REPORT
from medtune.evaluation.failures import failures
from medtune.evaluation.judging import judge_metrics
from medtune.evaluation.pass_at_k import pass_rates
from medtune.evaluation.predictions import read_predictions
from medtune.evaluation.reading import STRIPPED, marked, read_answer
from medtune.evaluation.report_scores import model_metrics
from medtune.evaluation.subgroups import group_labels
from medtune.evaluation.summary import CaseTable, by_group, by_run, compared
from medtune.evaluation.systematic_errors import systematic
from medtune.models.coordinate_format import IMAGE_COORDINATE_FORMATS
from medtune.records.sample import Sample, iterate, load_split
from medtune.rewards.base import Judged, saved_failures, score_all
from medtune.runtime.console import log
from medtune.runtime.errors import ConfigError, DataError
from medtune.runtime.files import MANIFEST, check_manifest, read_json, write_json
from medtune.runtime.tables import write_rows
from medtune.tasks import get_task, get_terms
from medtune.tasks.base import Task

TOGETHER = 64  # answers that batched and async reward terms get at once
ANSWER = ("id", "family", "mode", "draw", "video_of", "text", "ended")
SHOWN = ("iou", "peak_error", "score", "reward", "valid")  # by `dvc metrics show`, where it exists
SIZES = ("small", "medium", "large")
# (better, worse, mode): what the report must answer.
COMPARISONS = (
    ("sft", CONSTANT, "greedy"),
    ("sft", "base", "greedy"),
    ("grpo", "sft", "greedy"),
    ("grpo", "sft", "sampled"),
)


class Scorer:
    """Judges and scores answers to the same questions; equal answers are judged once.

    Args:
        stage: The configuration.
        samples: The questions.
    """

    def __init__(self, stage: ScoreStage, samples: Iterable[Sample]) -> None:
        self.task = get_task(stage.task)
        self.terms = get_terms(self.task, stage.reward, stage.reward_sha256)
        self.samples = {sample.id: sample for sample in samples}
        self.bounds, self.labels = _labels(self.task, self.samples)
        self._judged: dict[tuple[Any, ...], Judged] = {}

    def judge(self, row: Mapping[str, Any]) -> Judged:
        """Return an answer in front of its truth."""
        key = (row["id"], row["family"], row["text"], row.get(STRIPPED))
        if key not in self._judged:
            self._judged[key] = read_answer(self.task, row, self.samples[row["id"]])
        return self._judged[key]

    def _leniently(self, row: Mapping[str, Any], metrics: Mapping[str, Any]) -> dict[str, Any]:
        """Return the columns of an answer whose form is forgiven, given those of the strict one."""
        strict, dialect = self.judge(row), IMAGE_COORDINATE_FORMATS[row["family"]]
        judged = self.task.judge_leniently(row["text"], strict.sample, dialect)
        same = judged.answer is None or judged.answer == strict.answer
        found = metrics if same else self.task.measure(judged)
        readable = None if strict.answer is not None else float(judged.answer is not None)
        return {f"{name}_lenient": found[name] for name in self.task.read_leniently} | {
            "readable": readable
        }

    def score(self, model: str, rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
        """Return one scored row per prediction: metrics, reward, reward terms, reason if invalid.

        `truncated` is 1 for an answer that did not end. Of reward and the task's main metric, which
        count an invalid answer as a miss, there is a second column over valid answers alone, and
        of the metrics that `Task.read_leniently` names one over answers whose form is forgiven.
        `readable` is, of an invalid answer, whether it then states one. Rewards are of the text as
        it is, also where `evaluation.strip_reasoning` leaves the reasoning out.
        """
        answers, given = [self.judge(row) for row in rows], (self.task.main, "reward")
        rewards = []
        for start in range(0, len(answers), TOGETHER):
            texts = [{**row, STRIPPED: False} for row in rows[start : start + TOGETHER]]
            rewards += score_all(self.terms, [self.judge(row) for row in texts])
        scored = []
        for row, judged, (total, parts) in zip(rows, answers, rewards, strict=True):
            metrics = {"reward": total} | self.task.measure(judged)
            scored.append(
                {"model": model, "patient_id": judged.sample.patient_id}
                | {key: row[key] for key in ANSWER}
                | {STRIPPED: bool(row.get(STRIPPED))}
                | {"reason": judged.reason}
                | self.labels[row["id"]]
                | {f"term_{name}": value for name, value in parts.items()}
                | metrics
                | {"truncated": float(not row["ended"])}
                | {f"{key}_valid": metrics[key] if judged.answer else None for key in given}
                | self._leniently(row, metrics)
            )
        return scored

    def chosen(self, scored: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
        """Return, of sampled answers, one per case: the one that earns most, and the consensus.

        The first, as mode `best_of_n`, needs the truth: it is what a perfect choice would reach.
        Without a second draw there is nothing to choose.
        """
        draws = defaultdict(list)
        for row in scored:
            if row["mode"] == "sampled":
                draws[row["id"]].append(row)
        found = []
        for rows in draws.values():
            if len(rows) > 1:
                best = max(rows, key=lambda row: row["reward"])
                agreed = rows[self.task.majority_vote([self.judge(row).answer for row in rows])]
                found += [best | {"mode": "best_of_n"}, agreed | {"mode": "majority"}]
        return sorted(found, key=lambda row: row["mode"])


def _labels(
    task: Task, samples: Mapping[str, Sample]
) -> tuple[list[float], dict[str, dict[str, str]]]:
    """Return the terciles of the cases' sizes, and the groups of every case."""
    brought = group_labels(samples.values())
    traits = {name: task.strata(sample) for name, sample in samples.items()}
    sizes = [one["size"] for one in traits.values() if one["size"] is not None]
    bounds = [float(b) for b in np.quantile(sizes, [1 / 3, 2 / 3])] if sizes else []

    def size(value: float) -> str:
        return SIZES[sum(value > bound for bound in bounds)]

    return bounds, {
        name: {
            "source": samples[name].source,
            "size": one["side"] if one["size"] is None else size(one["size"]),
            "side": one["side"],
        }
        | brought[name]
        for name, one in traits.items()
    }


def check_complete(
    tables: Mapping[str, Sequence[Mapping[str, Any]]], samples: Mapping[str, Sample]
) -> None:
    """Check that every model has answered every question greedily, no other, and none twice.

    Raises:
        DataError: It has not.
    """
    for model, rows in tables.items():
        lack = samples.keys() - {row["id"] for row in rows if row["mode"] == "greedy"}
        other = {row["id"] for row in rows} - samples.keys()
        twice = len(rows) - len({(row["id"], row["mode"], row["draw"]) for row in rows})
        if lack or other or twice:
            raise DataError(
                f"predictions of {model}",
                f"{len(lack)} of {len(samples)} test cases have no greedy answer, {len(other)} "
                f"answers are to other cases, and {twice} answers are given twice",
                f"remove the folder of predictions of {model}, and run `snakemake evaluate`",
            )


def _blind(stage: ScoreStage, earned: Mapping[str, Sequence[Mapping[str, Any]]]) -> dict[str, Any]:
    """Return what blind answers earn, alone and over the constant one."""
    table = CaseTable({**row, "model": name} for name, rows in earned.items() for row in rows)
    reward = table.metrics.index("reward")
    own = {name: table.of(name, "greedy")[:, [reward]] for name in earned}  # type: ignore[index]
    pairs = {name: (values, own[CONSTANT]) for name, values in own.items()}
    over = compared(pairs, ["reward"], table.patients, stage, ["reward"])
    alone = by_run(table, stage)
    return {
        name: {"reward": alone[name]["greedy"]["reward"], "over_constant": over[name]["reward"]}
        for name in earned
    }


def primary_endpoints(stage: ScoreStage) -> list[str]:
    """Return the metrics that are primary endpoints: main metric and reward, or as configured."""
    return stage.evaluation.primary or [get_task(stage.task).main, "reward"]


def summarize(scored: Sequence[Mapping[str, Any]], stage: ScoreStage) -> dict[str, Any]:
    """Return estimates of every metric by model and mode, by groups, and paired comparisons.

    Groups of too few patients are counted in `small_groups` instead.
    A metric that applies to no case, or a comparison of something not run, is None. `n` of an
    estimate says how many cases it is over.

    Raises:
        ConfigError: A primary endpoint is no metric.
    """
    table = CaseTable(scored)
    unknown = sorted(set(stage.evaluation.primary) - set(table.metrics))
    if unknown:
        raise ConfigError(
            "evaluation.primary",
            f"names {unknown}, but the metrics are {table.metrics}",
            "name some of these, or none for the main metric and the reward",
        )
    pairs = {
        f"{better} - {worse}, {mode}": (table.of(better, mode), table.of(worse, mode))
        for better, worse, mode in COMPARISONS
    }
    return {
        "models": by_run(table, stage),
        "comparisons": compared(
            pairs, table.metrics, table.patients, stage, primary_endpoints(stage)
        ),
        "groups": by_group(table, stage),
        "small_groups": table.small,
    }


def score(
    stage: ScoreStage,
    dataset: Path,
    predictions: Iterable[Path],
    metrics: Path,
    cases: Path,
    judged: Iterable[Path] = (),
    cache: Path | None = None,
) -> None:
    """Score the predictions of every model and the constant baseline.

    What a reward term fails on is saved beside `metrics`.

    Args:
        stage: The configuration.
        dataset: Folder of the data set.
        predictions: Folder of each model's answers.
        metrics: JSON that is written: see `summarize`; `blind` holds what answers earn that need no
            video (see `probes`), `degenerate_answer_rates` how often each model gives them,
            `systematic_errors` what is wrong in every case alike, `failures` how many answers of
            each model are invalid or cut off and why (see `failures`), `calibration` whether shares
            of sampled answers that find a tumor can be believed, `pass_at` how often one of k is
            correct (see `passing`), `size_terciles` what small and large mean, `corpus` and
            `corpus_comparisons` figures of whole tasks (see `corpus`), `rewarded` the names of the
            reward's terms that pay.
        cases: Table of all scored rows that is written.
        judged: Folder of a judge's verdicts on each model that has any.
        cache: Folder in which scores by models are kept.

    Raises:
        DataError: Predictions are missing, damaged or of another data set.
    """
    check_manifest(dataset / MANIFEST)
    test = list(iterate(load_split(dataset, "test")))
    scorer = Scorer(stage, test)
    tables = marked(read_predictions(predictions), stage.evaluation.strip_reasoning)
    check_complete(tables, scorer.samples)
    family = next(iter(tables.values()))[0]["family"]
    train = iterate(load_split(dataset, "train"))
    blind = blind_rows(scorer.task, family, train, test)
    with saved_failures(metrics.with_suffix("")):
        earned = {name: scorer.score(CONSTANT, rows) for name, rows in blind.items()}
        scored = list(earned[CONSTANT])
        failed = {}
        for model, rows in tables.items():
            own = scorer.score(model, rows)
            scored += [*own, *scorer.chosen(own)]
            failed[model] = failures(own)
    summary = summarize(scored, stage)
    summary |= _corpus(stage, scorer, {CONSTANT: blind[CONSTANT]} | tables, judged, cache)
    greedy = _greedy(tables)
    summary |= _of_models(stage, scorer, greedy, blind)
    summary |= {
        "blind": _blind(stage, earned),
        "failures": {name: failed[name] for name in greedy},
        "calibration": calibration(scored, stage),
        "pass_at": pass_rates(scored, stage),
        "size_terciles": scorer.bounds,
        "rewarded": [term.name for term in scorer.terms if term.weight > 0],
    }
    write_rows(cases, scored)
    write_json(metrics, summary)
    _tell(summary, scorer.task.main)


def _greedy(tables: Mapping[str, Sequence[Mapping[str, Any]]]) -> dict[str, Any]:
    """Return the greedy answers of each model that has any; baselines are none."""
    greedy = {
        model: [row for row in rows if row["mode"] == "greedy"] for model, rows in tables.items()
    }
    return {model: rows for model, rows in greedy.items() if rows and model not in BASELINES}


def _of_models(
    stage: ScoreStage,
    scorer: Scorer,
    greedy: Mapping[str, Sequence[Mapping[str, Any]]],
    blind: Mapping[str, Sequence[Mapping[str, Any]]],
) -> dict[str, Any]:
    """Return `degenerate_answer_rates` and `systematic_errors` of the models."""
    judged = {name: [scorer.judge(row) for row in rows] for name, rows in greedy.items()}
    texts = (systematic(stage, name, answers) for name, answers in judged.items())
    return {
        "degenerate_answer_rates": {
            name: degenerate_answer_rates(scorer.judge, rows, blind)
            for name, rows in greedy.items()
        },
        "systematic_errors": [text for of_model in texts for text in of_model],
    }


def _tell(summary: Mapping[str, Any], main: str) -> None:
    """Print what is wrong, what was not run, and the main metric of every model."""
    for text in summary["systematic_errors"]:
        log(f"warning: {text}")
    for text in missing(summary["corpus"]):
        log(text)
    for model, found in summary["failures"].items():
        if found["reasons"]:
            first = found["reasons"][0]
            log(
                f"{model}: {100 * found['invalid']:.0f} % of answers are invalid, "
                f"{100 * first['share']:.0f} %: {first['reason']}"
            )
    for model, modes in summary["models"].items():
        log(f"{model}: " + "  ".join(f"{m} {main} {_mean(v[main])}" for m, v in modes.items()))


def _corpus(
    stage: ScoreStage,
    scorer: Scorer,
    tables: Mapping[str, Sequence[Mapping[str, Any]]],
    judged: Iterable[Path],
    cache: Path | None,
) -> dict[str, Any]:
    """Return `corpus` of all tasks, with the scores by models and by a judge."""
    samples = scorer.samples.values()
    further = judge_metrics(judged)
    if any(sample.task == REPORT for sample in samples):
        answers = answers_of(tables, scorer.judge, REPORT).values()
        greedy = (one for modes in answers for [one] in modes["greedy"].values())
        own = model_metrics(stage.evaluation.scores, greedy, cache)
        further[REPORT] = [*own, *further[REPORT]]
    return corpus(stage, samples, tables, scorer.judge, COMPARISONS, further)


def write_means(metrics: Path, means: Path) -> None:
    """Write the means of greedy answers alone, few enough to compare versions by.

    Args:
        metrics: JSON that `score` wrote.
        means: JSON that is written: model -> metric of `SHOWN` -> mean.
    """
    found = {}
    for model, modes in read_json(metrics)["models"].items():
        estimates = {name: modes["greedy"][name] for name in SHOWN if name in modes["greedy"]}
        found[model] = {name: estimate["mean"] for name, estimate in estimates.items() if estimate}
    write_json(means, found)


def _mean(estimate: Any) -> str:
    return "undefined" if estimate is None else f"{estimate['mean']:.3f}"
