"""From scored answers to estimates: by model and mode, by group of cases, and of differences."""

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medtune.config.data import GROUPS
from medtune.config.stages import ScoreStage
from medtune.evaluation.statistics import changes, correct, estimates
from medtune.evaluation.subgroups import PREFIX, small_groups

Array = NDArray[Any]
# What a scored row says beside its metrics.
ABOUT = {
    *("model", "patient_id", "reason", "id", "family", "mode", "draw", "video_of", "text"),
    *("ended", "stripped", *GROUPS),
}
BRIER = "decision_brier"


class CaseTable:
    """The values of scored rows by case; several draws of a case are averaged.

    Attributes:
        metrics: Names of the metrics.
        runs: (model, mode) in order of appearance.
        ids: The cases.
        patients: Their patients.
        groups: By kind, the group of every case.
        small: Of kinds that a user's table brings: groups of too few patients, and how many.
        values: (cases, runs, metrics); NaN where a metric does not apply.
    """

    def __init__(self, scored: Iterable[Mapping[str, Any]]) -> None:
        rows = list(scored)
        brought = [name for name in rows[0] if name.startswith(PREFIX)]
        self.metrics = [name for name in rows[0] if name not in ABOUT and name not in brought]
        cases, runs = {r["id"]: r for r in rows}, {(r["model"], r["mode"]): 0 for r in rows}
        self.runs, self.ids = list(runs), sorted(cases)
        self.patients = [cases[name]["patient_id"] for name in self.ids]
        kinds = {kind: kind for kind in GROUPS}
        kinds |= {name: name.removeprefix(PREFIX) for name in brought}
        self.groups = {k: [cases[name][key] for name in self.ids] for key, k in kinds.items()}
        own = {kind: values for kind, values in self.groups.items() if kind not in GROUPS}
        self.small = small_groups(own, self.patients)
        case_of = {name: index for index, name in enumerate(self.ids)}
        run_of = {run: index for index, run in enumerate(self.runs)}
        where = (
            [case_of[row["id"]] for row in rows],
            [run_of[row["model"], row["mode"]] for row in rows],
        )
        given = np.array([[row[name] for name in self.metrics] for row in rows], dtype=float)
        applies = ~np.isnan(given)
        shape = (len(self.ids), len(self.runs), len(self.metrics))
        sums, counts = np.zeros(shape), np.zeros(shape)
        np.add.at(sums, where, np.where(applies, given, 0.0))
        np.add.at(counts, where, applies)
        self.values = np.divide(sums, counts, out=np.full(shape, np.nan), where=counts > 0)
        self._add_brier()

    def _add_brier(self) -> None:
        """Add the squared error of the share of draws that find a tumor (Brier 1950)."""
        if "decision_error" in self.metrics:
            wrong = self.values[..., self.metrics.index("decision_error")]
            self.metrics.append(BRIER)
            self.values = np.concatenate([self.values, wrong[..., None] ** 2], axis=-1)

    def of(self, model: str, mode: str) -> Array | None:
        """Return the values (cases, metrics) of a run, or None if it was not run."""
        run = (model, mode)
        return self.values[:, self.runs.index(run)] if run in self.runs else None


def _dump(estimate: Any) -> Any:
    return estimate.model_dump() if estimate else None


def by_run(table: CaseTable, stage: ScoreStage, chosen: Sequence[int] | None = None) -> Any:
    """Return the estimates of every metric by model and mode, over all or some of the cases.

    A metric that applies to no case is None, and so are all of a run without a case.
    """
    chosen = range(len(table.ids)) if chosen is None else chosen
    values, evaluation = table.values[list(chosen)], stage.evaluation
    flat = estimates(
        values.reshape(len(values), -1),
        [table.patients[index] for index in chosen],
        evaluation.resamples,
        evaluation.confidence,
        stage.seed,
    )
    models: dict[str, Any] = {}
    for index, (model, mode) in enumerate(table.runs):
        own = flat[index * len(table.metrics) : (index + 1) * len(table.metrics)]
        named = zip(table.metrics, map(_dump, own), strict=True)
        models.setdefault(model, {})[mode] = dict(named)
    return models


def by_group(table: CaseTable, stage: ScoreStage) -> dict[str, Any]:
    """Return `by_run` of every group of cases that is not small, by its kind and value."""
    found: dict[str, Any] = {}
    for kind, values in table.groups.items():
        for value in sorted(set(values) - table.small.get(kind, {}).keys()):
            chosen = [index for index, one in enumerate(values) if one == value]
            found.setdefault(kind, {})[value] = by_run(table, stage, chosen)
    return found


def compared(
    pairs: Mapping[str, tuple[Array | None, Array | None]],
    metrics: list[str],
    patients: Sequence[str],
    stage: ScoreStage,
    primary: Collection[str],
) -> dict[str, Any]:
    """Return what is known of paired differences, by comparison and metric.

    Compared are the cases in which a metric applies to both. p-values are corrected for all
    comparisons of the primary metrics, and apart from them for those of all others. A comparison
    of something not run is None.

    Args:
        pairs: Values (cases, metrics) of what may be better and of what may be worse, by name.
        metrics: Names of the metrics.
        patients: The patient of every case.
        stage: The configuration.
        primary: The metrics that are primary endpoints.
    """
    run = {name: a - b for name, (a, b) in pairs.items() if a is not None and b is not None}
    found: dict[str, Any] = dict.fromkeys(pairs)
    if not run:
        return found
    evaluation = stage.evaluation
    flat = changes(
        np.concatenate(list(run.values()), axis=1),
        patients,
        evaluation.resamples,
        evaluation.permutations,
        evaluation.confidence,
        stage.seed,
    )
    for metric, change in zip(metrics * len(run), flat, strict=True):
        if change:
            change.primary = metric in primary
    correct(change for change in flat if change)
    for index, name in enumerate(run):
        own = flat[index * len(metrics) : (index + 1) * len(metrics)]
        found[name] = dict(zip(metrics, map(_dump, own), strict=True))
    return found
