"""Is a model's doubt worth anything: how often its draws find a tumor, and how often there is one.

Of a case, the share of sampled answers that find a tumor is a forecast. It is calibrated if of
the cases with a share of 0.7 seven in ten have a tumor.
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from medtune.config.stages import ScoreStage
from medtune.evaluation.statistics import calibration_error, wilson

BINS = 10
NEEDED = ("missed", "false_positive", "valid")
Row = Mapping[str, Any]


def _finds(row: Row) -> float:
    """Return 1 if an answer finds a tumor, whatever the truth is. An invalid one finds none."""
    found: float
    found = row["false_positive"] * row["valid"] if row["missed"] is None else 1 - row["missed"]
    return found


def calibration(scored: Sequence[Row], stage: ScoreStage) -> dict[str, Any]:
    """Return by model how well the share of its sampled answers that find a tumor is calibrated.

    Each holds `cases`, `without` (cases without a tumor), `error` (see
    `statistics.calibration_error`) and `bins`: of each of ten equally wide bins of that share
    that has cases, its ends `above` and `below`, the mean share `said`, the share of cases with a
    tumor `true` between `low` and `high` (`statistics.wilson`, of as many trials as there are
    patients: cases of one patient add no certainty), the share of `valid` answers, and the counts
    `n` (cases) and `patients`. Empty for a task that has no such decision.

    Args:
        scored: Rows of `Scorer.score`.
        stage: The configuration.
    """
    draws: dict[str, dict[str, list[Row]]] = defaultdict(lambda: defaultdict(list))
    for row in scored:
        if row["mode"] == "sampled" and all(name in row for name in NEEDED):
            draws[row["model"]][row["id"]].append(row)
    return {model: _of_model(list(cases.values()), stage) for model, cases in draws.items()}


def _of_model(cases: Sequence[Sequence[Row]], stage: ScoreStage) -> dict[str, Any]:
    """Return the calibration of a model from the draws of each case."""
    said = np.array([np.mean([_finds(row) for row in rows]) for rows in cases])
    valid = np.array([np.mean([row["valid"] for row in rows]) for rows in cases])
    true = np.array([float(rows[0]["missed"] is not None) for rows in cases])
    patients = [rows[0]["patient_id"] for rows in cases]
    # A share on an edge belongs to the bin above it, whatever its last digit says.
    places = np.minimum((said * BINS + 1e-9).astype(int), BINS - 1)
    evaluation = stage.evaluation
    error = calibration_error(
        said - true, places, patients, evaluation.resamples, evaluation.confidence, stage.seed
    )
    bins = []
    for place in np.unique(places):
        own = places == place
        share, people = float(true[own].mean()), len({patients[n] for n in np.flatnonzero(own)})
        low, high = wilson(share, people, evaluation.confidence)
        means = {"said": float(said[own].mean()), "true": share, "low": low, "high": high}
        bins.append(
            {"above": int(place) / BINS, "below": (int(place) + 1) / BINS}
            | {name: float(f"{value:.12g}") for name, value in means.items()}
            | {"valid": float(valid[own].mean()), "n": int(own.sum()), "patients": people}
        )
    without = int((1 - true).sum())
    return {"cases": len(cases), "without": without, "error": error.model_dump(), "bins": bins}
