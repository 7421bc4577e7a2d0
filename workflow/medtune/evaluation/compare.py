"""Two sides compared over the cases that both answered: stages, experiments, or several seeds."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import t as student

from medtune.config.stages import ScoreStage
from medtune.evaluation.directions import sense, with_arrow
from medtune.evaluation.score import primary_endpoints
from medtune.evaluation.statistics import Change, Estimate, correct, estimates, ratio
from medtune.evaluation.summary import CaseTable, compared
from medtune.runtime.console import log
from medtune.runtime.errors import DataError
from medtune.runtime.files import check_manifest, manifest_of
from medtune.runtime.tables import read_rows

LEAST_SEEDS = 3
COLUMNS = ("first", "second", "second - first", "p", "p (Holm)", "d", "detectable")


@dataclass(frozen=True)
class Run:
    """What one model of an experiment answered in one mode.

    Attributes:
        name: `<folder>:<model>`.
        stage: The configuration by which it was scored.
        table: Its cases.
    """

    name: str
    stage: ScoreStage
    table: CaseTable


def read_run(name: str, mode: str) -> Run:
    """Return a run of an evaluated experiment.

    Args:
        name: Folder of the experiment and name of the model, `<folder>:<model>`; grpo without one.
        mode: greedy, sampled, shuffled, best_of_n or majority.

    Raises:
        DataError: The experiment is not evaluated, was changed since, or has no such run.
    """
    folder, _, model = name.rpartition(":") if ":" in name else (name, ":", "grpo")
    metrics = Path(folder) / "eval/metrics.json"
    manifest = check_manifest(manifest_of(metrics))
    rows = read_rows(metrics.with_name("cases.parquet"))
    own = [row for row in rows if (row["model"], row["mode"]) == (model, mode)]
    if not own:
        there = ", ".join(sorted({f"{row['model']} {row['mode']}" for row in rows}))
        raise DataError(name, f"has no {mode} answers of {model}", f"choose one of: {there}")
    return Run(f"{folder}:{model}", ScoreStage.model_validate(manifest["config"]), CaseTable(own))


def _check_alike(runs: Sequence[Run]) -> list[str]:
    """Return the metrics that all runs have and that mean the same in all.

    Raises:
        DataError: The runs do not answer the same question.
    """
    first = runs[0]
    for run in runs[1:]:
        if run.stage.task != first.stage.task:
            raise DataError(
                run.name,
                f"answers another task than {first.name} ({run.stage.task} and {first.stage.task})",
                "compare runs of one task",
            )
    paid = {(run.stage.reward.model_dump_json(), run.stage.reward_sha256) for run in runs}
    shared = [name for name in first.table.metrics if all(name in r.table.metrics for r in runs)]
    if len(paid) == 1:
        return shared
    log("the rewards differ: only metrics are compared")
    return [name for name in shared if not name.startswith(("reward", "term_"))]


def _check_same_cases(runs: Sequence[Run], ids: Sequence[str]) -> None:
    """Check that equal ids mean equal cases, by the side of the tumor.

    Raises:
        DataError: They do not, as with synthetic patients of another seed.
    """
    sides = [dict(zip(r.table.ids, r.table.groups["side"], strict=True)) for r in runs]
    for run, other in zip(runs, sides, strict=True):
        differ = [name for name in ids if other[name] != sides[0][name]]
        if differ:
            raise DataError(
                run.name,
                f"means other cases than {runs[0].name} by the same names: {len(differ)} of "
                f"{len(ids)} have their tumor on another side, the first is {differ[0]}",
                "compare runs over the same data",
            )


def _values(run: Run, ids: Sequence[str], metrics: Sequence[str]) -> NDArray[Any]:
    """Return the values (cases, metrics) of a run for chosen cases and metrics."""
    row_of = {name: row for row, name in enumerate(run.table.ids)}
    columns = [run.table.metrics.index(name) for name in metrics]
    chosen: NDArray[Any] = run.table.values[[row_of[name] for name in ids], 0][:, columns]
    return chosen


def compare(first: Sequence[str], second: Sequence[str], mode: str) -> dict[str, Any]:
    """Return the figures of two sides over their common cases, and of their paired differences.

    Several runs of a side are trainings with other seeds: of each case their mean is compared, and
    `seeds_sd` says how far their overall means spread. With three or more on both sides, intervals
    and tests are over seeds and patients, see `over_seeds`, and hold for the methods; with fewer,
    for these trainings alone.

    Args:
        first: Runs of one side, see `read_run`.
        second: Runs of the other.
        mode: Which answers.

    Returns:
        `first` and `second` (names of the runs), `mode`, `cases` (number of common ones), whether
        the differences are of `methods`, and `metrics`: by name whether `more_is_better`, `first`
        and `second` (estimates, with `seeds_sd`), and `difference`, second - first (see
        `statistics.Change`).

    Raises:
        DataError: A run is missing, or the runs cannot be compared.
    """
    sides = [[read_run(name, mode) for name in names] for names in (first, second)]
    runs = [run for side in sides for run in side]
    metrics = _check_alike(runs)
    ids = _common_cases(runs)
    patient_of = dict(zip(runs[0].table.ids, runs[0].table.patients, strict=True))
    patients, stage = [patient_of[name] for name in ids], runs[0].stage
    values = [np.stack([_values(run, ids, metrics) for run in side]) for side in sides]
    means = [one.mean(axis=0) for one in values]
    primary = primary_endpoints(stage)
    changes = compared({"": (means[1], means[0])}, metrics, patients, stage, primary)[""]
    several = all(len(side) >= LEAST_SEEDS for side in values)
    if several:
        changes = over_seeds(values, metrics, patients, stage, changes)
    evaluation = stage.evaluation
    own = [
        estimates(one, patients, evaluation.resamples, evaluation.confidence, stage.seed)
        for one in means
    ]
    return {
        "first": [run.name for run in sides[0]],
        "second": [run.name for run in sides[1]],
        "mode": mode,
        "cases": len(ids),
        "methods": several,
        "metrics": {
            name: {
                "more_is_better": {1: True, -1: False, 0: None}[sense(name)],
                "first": _side(own[0][column], values[0][..., column]),
                "second": _side(own[1][column], values[1][..., column]),
                "difference": changes[name],
            }
            for column, name in enumerate(metrics)
        },
    }


def _common_cases(runs: Sequence[Run]) -> list[str]:
    """Return the ids of the cases that all runs have, sorted; warn where some have more.

    Raises:
        DataError: There are none, or a case is another in another run.
    """
    ids = sorted(set.intersection(*(set(run.table.ids) for run in runs)))
    if not ids:
        raise DataError(runs[0].name, f"shares no case with {runs[-1].name}", "compare others")
    _check_same_cases(runs, ids)
    most = max(len(run.table.ids) for run in runs)
    if len(ids) < most:
        log(
            f"warning: only {len(ids)} of {most} cases are common to all; trainings with several "
            "seeds share theirs if `splits.seed` is the same"
        )
    return ids


def over_seeds(
    values: Sequence[NDArray[Any]],
    metrics: Sequence[str],
    patients: Sequence[str],
    stage: ScoreStage,
    changes: dict[str, Any],
) -> dict[str, Any]:
    """Return the changes with intervals and tests over seeds and patients.

    Seeds of each side and patients are resampled together (Davison and Hinkley 1997, section 3.8).
    The spread between k seeds comes out (k - 1) / k too small and is enlarged by it; intervals and
    p are of Student's distribution with as many degrees of freedom as there are seeds less two.

    Args:
        values: Of each side, (runs, cases, metrics).
        metrics: Their names.
        patients: The patient of every case.
        stage: The configuration.
        changes: By metric, the change over patients alone.
    """
    evaluation = stage.evaluation
    least, count = min(map(len, values)), sum(map(len, values))
    drawn = _resampled_differences(values, patients, evaluation.resamples, stage.seed)
    errors = np.nanstd(drawn, axis=0, ddof=1) * np.sqrt(least / (least - 1))
    reach = float(student.ppf((1 + evaluation.confidence) / 2, count - 2))
    found: dict[str, Change | None] = {}
    for name, error in zip(metrics, errors.tolist(), strict=True):
        old = changes[name]
        mean = old["mean"] if old else 0.0
        unknown = {"p_is_limit": False, "p_holm": None, "effect": None, "detectable": None}
        known = {
            "low": mean - reach * error,
            "high": mean + reach * error,
            "p": float(2 * student.sf(abs(mean) / error, count - 2)) if error > 0 else None,
        }
        found[name] = Change(**old | unknown | known) if old else None
    correct(change for change in found.values() if change)
    return {name: change and change.model_dump() for name, change in found.items()}


def _resampled_differences(
    values: Sequence[NDArray[Any]], patients: Sequence[str], resamples: int, seed: int
) -> NDArray[Any]:
    """Return the differences of means (resamples, metrics) over drawn seeds and patients."""
    owners = np.unique(np.asarray(patients), return_inverse=True)[1]
    rng, count = np.random.default_rng(seed), owners.max() + 1
    drawn = []
    for _ in range(resamples):
        weights = np.bincount(rng.integers(count, size=count), minlength=count)[owners, None]
        means = []
        for side in values:
            runs = side[rng.integers(len(side), size=len(side))]
            counted = ~np.isnan(runs) * weights
            total = (np.nan_to_num(runs) * counted).sum(axis=(0, 1))
            means.append(ratio(total, counted.sum(axis=(0, 1))))
        drawn.append(means[1] - means[0])
    return np.array(drawn)


def _side(estimate: Estimate | None, values: NDArray[Any]) -> dict[str, Any] | None:
    """Return an estimate, and the standard deviation of the means of its runs (runs, cases)."""
    if estimate is None:
        return None
    spread = float(np.std(np.nanmean(values, axis=1), ddof=1)) if len(values) > 1 else None
    return estimate.model_dump() | {"seeds_sd": spread}


def _row(metric: dict[str, Any]) -> list[str]:
    first, second, change = metric["first"], metric["second"], metric["difference"]

    def text(value: float | None, form: str = ".3g") -> str:
        return "-" if value is None else f"{value:{form}}"

    ends = "" if change["low"] is None else f" [{change['low']:+.3f}, {change['high']:+.3f}]"
    return [
        *(
            f"{side['mean']:.3f}"
            + ("" if side["seeds_sd"] is None else f" (sd {side['seeds_sd']:.3f})")
            for side in (first, second)
        ),
        f"{change['mean']:+.3f}{ends}",
        *(("≤ " if change["p_is_limit"] else "") + text(change[key]) for key in ("p", "p_holm")),
        text(change["effect"], "+.2f"),
        text(change["detectable"]),
    ]


def show(found: dict[str, Any]) -> None:
    """Print what `compare` returned as a table; a metric that applies to no case is left out."""
    rows = [["", *COLUMNS]]
    for name, metric in found["metrics"].items():
        if metric["difference"]:
            rows.append([with_arrow(name, name), *_row(metric)])
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    for side in ("first", "second"):
        log(f"{side}: {', '.join(found[side])}")
    log(f"{found['mode']} answers to {found['cases']} cases; ↑: more is better, ↓: less is\n")
    for name, *cells in rows:
        line = [cell.rjust(width) for cell, width in zip(cells, widths[1:], strict=True)]
        log("  ".join([name.ljust(widths[0]), *line]))
    seeds = " and ".join(str(len(found[side])) for side in ("first", "second"))
    if found["methods"]:
        log(f"\nintervals and p are over seeds ({seeds}) and patients")
    else:
        log(
            f"\nno claim about methods: {seeds} trainings, and intervals over patients alone; give "
            f"{LEAST_SEEDS} seeds or more on both sides"
        )
