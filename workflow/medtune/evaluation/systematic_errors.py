"""Mistakes that a model makes in every case alike: axes or units that do not fit."""

from collections.abc import Sequence

import numpy as np

from medtune.config.stages import ScoreStage
from medtune.rewards.base import Judged
from medtune.tasks import get_task

GAIN, FACTOR = 0.1, 1.5  # what undoing a mistake must bring to be worth a word
MOST = 0.5


def systematic(stage: ScoreStage, model: str, judged: Sequence[Judged]) -> list[str]:
    """Return the mistakes whose undoing makes the boxes of a model fit far better.

    Far better is: by a tenth and by half, and in most cases.

    Args:
        stage: The configuration.
        model: Name of the model.
        judged: Its answers.
    """
    task = get_task(stage.task)
    found = [(one.sample.patient_id, task.error_hypotheses(one)) for one in judged]
    known = [(patient, scores) for patient, scores in found if scores]
    if not known:
        return []
    names = list(known[0][1])
    table = np.array([[scores[name] for name in names] for _, scores in known])
    before, after = table[..., 0].mean(axis=0), table[..., 1].mean(axis=0)
    better = (table[..., 1] > table[..., 0]).mean(axis=0)
    return [
        f"{model}: boxes fit the truth far better if {name}: mean IoU {late:.3f} instead of "
        f"{early:.3f} in {len(known)} cases"
        for name, early, late, share in zip(names, before, after, better, strict=True)
        if share >= MOST and late >= max(early + GAIN, FACTOR * early)
    ]
