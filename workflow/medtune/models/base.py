"""The base model of an experiment: built tiny, or an existing one that is checked and named."""

from pathlib import Path
from typing import Any

from medtune.console import say
from medtune.files import (
    MANIFEST,
    atomic_folder,
    check_manifest,
    read_json,
    write_json,
    write_manifest,
)
from medtune.geometry import Geometry
from medtune.models.dialect import DIALECTS
from medtune.models.loading import fetch_base
from medtune.schema import Sample, iterate, load_split
from medtune.stages import ModelStage
from medtune.tasks import get_task

REFERENCE = "base.json"


def _texts(stage: ModelStage, samples: list[Sample]) -> list[str]:
    """Return chats of the training split in the family's dialect: the tiny vocabulary's corpus."""
    from medtune.models.tiny import chat_template

    task, dialect = get_task(stage.task), DIALECTS[stage.model.family]
    texts = []
    for sample in samples:
        geometry = Geometry.model_validate(sample.geometry)
        texts.append(task.prompt(sample, dialect))
        texts.append(task.target(sample.truth, geometry, dialect))
    return [*texts, chat_template(stage.model.family)]


def prepare_base(stage: ModelStage, dataset: Path, output: Path) -> None:
    """Write the folder that later stages start from.

    With `model.builder` it holds the tiny model; otherwise `base.json`, which names the model.

    Raises:
        ModelError: The named model cannot be used.
    """
    config: dict[str, Any] = stage.model_dump(mode="json")
    parents = [dataset / MANIFEST] if stage.model.builder else []
    with atomic_folder(output) as temporary:
        if stage.model.builder:
            from medtune.models.tiny import build_tiny

            check_manifest(dataset / MANIFEST)
            samples = list(iterate(load_split(dataset, "train")))
            count = build_tiny(
                temporary, stage.model.family, stage.model.tiny, _texts(stage, samples), stage.seed
            )
            say(f"built a tiny {stage.model.family} with {count:,} parameters")
        else:
            write_json(temporary / REFERENCE, {"path": str(fetch_base(stage.model))})
            say(f"base model: {stage.model.path}")
        files = [path for path in temporary.rglob("*") if path.is_file()]
        write_manifest(temporary, files, config, parents)


def base_path(folder: Path) -> str:
    """Return the model folder that a folder written above stands for."""
    reference = folder / REFERENCE
    if reference.is_file():
        path: str = read_json(reference)["path"]
        return path
    return str(folder)
