"""Predictions that no model made, in the same form: each baseline is scored like a model."""

from collections.abc import Mapping
from pathlib import Path

from medtune.config.stages import BaselinesStage
from medtune.evaluation.predictions import parsed
from medtune.models.coordinate_format import COORDINATE_FORMATS
from medtune.records.sample import iterate, load_split
from medtune.runtime.console import track
from medtune.runtime.files import MANIFEST, check_manifest
from medtune.runtime.tables import write_rows
from medtune.tasks import get_task
from medtune.tasks.base import with_truth


def write_baselines(stage: BaselinesStage, dataset: Path, outputs: Mapping[str, Path]) -> None:
    """Write what each baseline answers to the test split, in the dialect of the model family.

    Args:
        stage: The configuration.
        dataset: Folder of the data set.
        outputs: Table that is written, by the name of the baseline.
    """
    check_manifest(dataset / MANIFEST)
    task, family = get_task(stage.task), stage.model.family
    claims = task.baselines(iterate(load_split(dataset, "train")), stage.seed)
    test = list(iterate(load_split(dataset, "test")))
    rows: dict[str, list[dict[str, object]]] = {name: [] for name in outputs}
    for sample in track(test, "baselines"):
        for name, own in rows.items():
            claimed = with_truth(sample, claims[name](sample, dataset))
            text = task.target(claimed, COORDINATE_FORMATS[family])
            own.append(
                {"id": sample.id, "family": family, "mode": "greedy", "draw": 0}
                | {"video_of": sample.id, "text": text, "tokens": 0, "ended": True}
                | {"finish": "stop"}
                | parsed(task.judge(text, sample, COORDINATE_FORMATS[family]))
                | {"engine": "baseline"}
            )
    for name, path in outputs.items():
        write_rows(path, rows[name])
