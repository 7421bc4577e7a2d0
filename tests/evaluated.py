"""Predictions whose scores are known beforehand, and an evaluation of them."""

import json
from pathlib import Path

from medtune.config.data import TaskConfig
from medtune.config.evaluation import EvaluationConfig
from medtune.config.stages import ScoreStage
from medtune.config.training import RewardConfig
from medtune.evaluation.score import score
from medtune.geometry.volume import Geometry
from medtune.models.coordinate_format import COORDINATE_FORMATS
from medtune.runtime.files import MANIFEST, read_json, with_manifest
from medtune.runtime.tables import write_rows
from medtune.tasks import get_task

STAGE = ScoreStage(
    task=TaskConfig(),
    reward=RewardConfig(),
    evaluation=EvaluationConfig(resamples=1000, permutations=1000),
)
TASK = get_task(TaskConfig())


def rows_of(samples, write, family="qwen2_5_vl", mode="greedy", draw=0):
    """Return predictions: for every sample what `write` makes of it."""
    return [
        {
            "id": s.id,
            "family": family,
            "mode": mode,
            "draw": draw,
            "video_of": s.id,
            "text": write(s),
            "tokens": 1,
            "ended": True,
        }
        for s in samples
    ]


def gold(family):
    def write(sample):
        return TASK.target(sample, COORDINATE_FORMATS[family])

    return write


def exact(sample):
    """Write the truth without rounding."""
    return json.dumps(sample.truth)


def changed(change):
    """Return a writer of the exact truth with another box: what `change` makes of it."""

    def write(sample):
        box = sample.truth["bbox_3d"]
        geometry = Geometry.model_validate(sample.geometry)
        return json.dumps(sample.truth | {"bbox_3d": box and list(change(tuple(box), geometry))})

    return write


def evaluate(dataset: Path, folder: Path, models, stage=STAGE, **more) -> dict:
    """Score rows of models as `medtune score` does, in `folder/eval`; return metrics.json."""
    tables = [folder / "eval/predictions" / name for name in models]
    for table, rows in zip(tables, models.values(), strict=True):
        write_rows(table / "0000.parquet", rows)
    metrics, cases = folder / "eval/metrics.json", folder / "eval/cases.parquet"
    with with_manifest("score", stage, [dataset / MANIFEST], metrics, cases):
        score(stage, dataset, tables, metrics, cases, **more)
    return read_json(metrics)
