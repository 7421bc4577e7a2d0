"""The result of a training: a model folder, complete in float32, its history and its manifest."""

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from medtune.config.stages import GrpoStage, SftStage
from medtune.config.training import GrpoConfig, ModelConfig, OptimizerConfig, SftConfig
from medtune.models.loading import load_model
from medtune.runtime.console import log
from medtune.runtime.errors import ModelError
from medtune.runtime.files import (
    COMPLETIONS,
    CURVES,
    HISTORY,
    atomic_folder,
    write_json,
    write_manifest,
)
from medtune.training.origin import Origin, from_origin, write_adapters


def section_of(stage: SftStage | GrpoStage) -> tuple[str, SftConfig | GrpoConfig]:
    """Return the name of a training stage, and its section."""
    return ("sft", stage.sft) if isinstance(stage, SftStage) else ("grpo", stage.grpo)


def trained_model(
    weights: Path, origin: Origin, config: ModelConfig, section: OptimizerConfig
) -> Any:
    """Return the model of a folder of trained weights, on the CPU.

    Args:
        weights: Folder written by the trainer: a whole model, or adapters.
        origin: What was trained.
        config: The model section.
        section: The training section.
    """
    if not section.lora:
        return load_model(weights, config)
    model = from_origin(origin, config, section)
    model.load_adapter(weights, model.active_adapter, is_trainable=True)
    return model


def merged(model: Any) -> Any:
    """Return the model with its adapters merged, if it has any, all in float32.

    The sum would be lost in bfloat16: most changes are smaller than its spacing at the weight.
    """
    return model.float().merge_and_unload() if hasattr(model, "merge_and_unload") else model


def curves(history: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return a log as one row per step, all with the same keys, as `dvc plots` needs them."""
    rows: dict[int, dict[str, Any]] = {}
    for entry in history:
        rows.setdefault(entry["step"], {}).update(entry)
    keys = sorted({key for row in rows.values() for key in row})
    return [{key: row.get(key) for key in keys} for row in rows.values()]


def save_result(
    trainer: Any,
    stage: SftStage | GrpoStage,
    origin: Origin,
    weights: Path,
    folder: Path,
    history: list[dict[str, Any]],
    parents: Sequence[Path],
    facts: Mapping[str, Any],
) -> None:
    """Write the complete model in float32, its processor, its history and, last, its manifest.

    Tables of rollouts are taken over from the checkpoints, if there are any. Manifest and history
    name the optimizer `step` whose weights these are, the manifest also the other facts: why
    training `ended`, how many `processes` trained, how they saw their media (`seen`); and which
    versions of the code and changes of the configuration if it went on with others.

    Adapters are merged, so that every model folder can be used alone, and lie beside, so that a
    training can go on with them.

    Args:
        trainer: The trainer.
        stage: The configuration.
        origin: What was trained.
        weights: Folder written by the trainer.
        folder: The model folder.
        history: The log.
        parents: Manifests and tables that the run depended on.
        facts: See above.

    Raises:
        ModelError: A trained weight is NaN or infinite: nothing is written.
    """
    (name, section), checkpoints = section_of(stage), trainer.checkpoints
    model = trained_model(weights, origin, stage.model, section)
    check_finite(model, folder)
    with atomic_folder(folder) as temporary:
        merged(model).save_pretrained(temporary)
        trainer.processing_class.save_pretrained(temporary)
        if section.lora:
            write_adapters(temporary, weights, origin, stage.model, section)
        write_json(temporary / HISTORY, [*history, {"step": facts["step"], "result": True}])
        write_json(temporary / CURVES, curves(history))
        if checkpoints.tables.is_dir():
            shutil.copytree(checkpoints.tables, temporary / COMPLETIONS)
        files = [path for path in temporary.rglob("*") if path.is_file()]
        codes, changes = checkpoints.about["codes"], checkpoints.about["changes"]
        trail = ({"codes": codes} if len(codes) > 1 else {}) | (
            {"changes": changes} if changes else {}
        )
        config = stage.model_dump(mode="json")
        write_manifest(temporary, files, config, parents, stage=name, **facts, **trail)
    log(f"model: {folder}")


def check_finite(model: Any, folder: Path) -> None:
    """Check that trained weights are numbers.

    Raises:
        ModelError: One is NaN or infinite.
    """
    for name, parameter in model.named_parameters():
        if parameter.requires_grad and not parameter.isfinite().all():
            raise ModelError(
                folder,
                f"not written: {name} holds NaN or infinite weights after the last step",
                "lower the learning rate",
            )
