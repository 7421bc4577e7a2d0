"""The base model of an experiment: built tiny, or an existing one that is checked and named."""

from pathlib import Path
from typing import Any

from medtune.config.base import Family
from medtune.config.stages import ModelStage
from medtune.models.added_tokens import write_with_tokens
from medtune.models.base_reference import REFERENCE, _model_hashes
from medtune.models.coordinate_format import COORDINATE_FORMATS
from medtune.models.loading import fetch_base
from medtune.records.sample import Sample, iterate, load_split
from medtune.runtime.console import log
from medtune.runtime.files import (
    MANIFEST,
    atomic_folder,
    check_manifest,
    write_json,
    write_manifest,
)
from medtune.tasks import get_task


def _texts(stage: ModelStage, samples: list[Sample]) -> list[str]:
    """Return chats of the training split in the family's dialect: the tiny vocabulary's corpus."""
    from medtune.models.tiny import chat_template

    family: Family = stage.model.family  # type: ignore[assignment]  # only such are built
    task, dialect = get_task(stage.task), COORDINATE_FORMATS[family]
    texts = []
    for sample in samples:
        turns = task.render_history(sample, dialect).turns
        texts += [text for turn in turns for text in (turn.prompt, turn.target)]
        texts += [task.prompt(sample, dialect), task.target(sample, dialect)]
    return [*texts, chat_template(family)]


def prepare_base(stage: ModelStage, dataset: Path, output: Path) -> None:
    """Write the folder that later stages start from.

    With `model.builder` it holds the tiny model; otherwise `base.json`, which names the model's
    folder (of a hub id: the snapshot that was fetched) and the SHA-256 of its files. With
    `model.added_tokens` it holds the whole model, and `base.json` stands in its manifest.

    Raises:
        ModelError: The named model cannot be used.
    """
    config: dict[str, Any] = stage.model_dump(mode="json")
    parents = [dataset / MANIFEST] if stage.model.builder else []
    named: dict[str, Any] = {}
    with atomic_folder(output) as temporary:
        if stage.model.builder:
            from medtune.models.tiny import build_tiny

            check_manifest(dataset / MANIFEST)
            samples = list(iterate(load_split(dataset, "train")))
            count = build_tiny(temporary, stage.model, _texts(stage, samples), stage.seed)
            log(f"built a tiny {stage.model.family} with {count:,} parameters")
        else:
            folder = fetch_base(stage.model)
            reference = {"path": str(folder), "files": _model_hashes(folder)}
            if stage.model.added_tokens:
                named = {"base": reference}
                write_with_tokens(folder, temporary, stage.model)
            else:
                write_json(temporary / REFERENCE, reference)
            log(f"base model: {stage.model.path}")
        files = [path for path in temporary.rglob("*") if path.is_file()]
        write_manifest(temporary, files, config, parents, stage="model", **named)
