"""Mistakes that a model makes in every case alike: axes or units that do not fit."""

from collections.abc import Sequence

import numpy as np

from medtune.evaluation.statistics import estimates
from medtune.rewards.base import Judged
from medtune.stages import ScoreStage
from medtune.tasks import get_task

GAIN, FACTOR = 0.1, 1.5  # what undoing a mistake must bring to be worth a word


def systematic(stage: ScoreStage, model: str, judged: Sequence[Judged]) -> list[str]:
    """Return the mistakes whose undoing makes the boxes of a model fit far better.

    Far better is: by a tenth and by half, with an interval of the difference above 0.

    Args:
        stage: The configuration.
        model: Name of the model.
        judged: Its answers.
    """
    task = get_task(stage.task)
    found = [(one.sample.patient_id, task.repaired(one)) for one in judged]
    known = [(patient, scores) for patient, scores in found if scores]
    if not known:
        return []
    names = list(known[0][1])
    table = np.array([[scores[name] for name in names] for _, scores in known])
    before, after = table[..., 0].mean(axis=0), table[..., 1].mean(axis=0)
    evaluation, patients = stage.evaluation, [patient for patient, _ in known]
    gains = estimates(
        table[..., 1] - table[..., 0],
        patients,
        evaluation.resamples,
        evaluation.confidence,
        stage.seed,
    )
    return [
        f"{model}: boxes fit the truth far better if {name}: mean IoU {late:.3f} instead of "
        f"{early:.3f} in {len(known)} cases"
        for name, early, late, gain in zip(names, before, after, gains, strict=True)
        if gain and (gain.low or 0) > 0 and late >= max(early + GAIN, FACTOR * early)
    ]
