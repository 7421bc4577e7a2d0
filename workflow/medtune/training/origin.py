"""What a training starts from: the weights of a model folder, exactly as they were trained.

A model that was trained by adapters keeps them beside its merged weights. Adapters of the same
shape go on from there, on the same frozen base. Others are put on the merged weights in float32:
most of what training changes is smaller than the spacing of bfloat16.
"""

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from medtune.config.training import ModelConfig, OptimizerConfig
from medtune.models.added_tokens import added_ids
from medtune.models.base_reference import base_path, model_sha256
from medtune.models.loading import load_model
from medtune.runtime.files import HISTORY, read_json, write_json
from medtune.training.trainable import set_trainable

ADAPTERS = "adapters"  # folder in a model folder
ADAPTER_FILES = ("adapter_config.json", "adapter_model.safetensors")
TRAINED_ON = "trained_on.json"


@dataclass(frozen=True)
class Origin:
    """What a training starts from.

    Attributes:
        folder: Model folder whose weights are trained, or frozen under adapters.
        adapters: Folder of adapters that are trained on, or None: there are none, or new ones.
        dtype: Precision that the weights are held in.
        why: What there is to say about it, or "".
    """

    folder: Path
    adapters: Path | None
    dtype: str
    why: str = ""


def origin_of(path: Path, config: ModelConfig, optimizer: OptimizerConfig) -> Origin:
    """Return what a training of a model folder starts from.

    Args:
        path: The folder.
        config: The model section.
        optimizer: The training section.
    """
    if not optimizer.lora:
        return Origin(path, None, "float32")
    if not (path / HISTORY).is_file():  # not trained here: bfloat16 is what it was released in
        return Origin(path, None, config.dtype)
    adapters = path / ADAPTERS
    if not adapters.is_dir():
        return Origin(path, None, "float32", "it was trained without adapters")
    then, now = read_json(adapters / TRAINED_ON), adapter_shape(config, optimizer)
    changed = [key for key in now if then["shape"][key] != now[key]]
    if changed:
        return Origin(path, None, "float32", f"its adapters differ in {', '.join(changed)}")
    base = Path(then["base"])
    if not base.is_dir() or model_sha256(base) != then["sha256"]:
        return Origin(path, None, "float32", f"{base} is not what its adapters were trained on")
    return Origin(base, adapters, then["dtype"], f"its adapters go on, on {base}")


def from_origin(origin: Origin, config: ModelConfig, optimizer: OptimizerConfig) -> Any:
    """Return a model with its trainable parameters set; trained weights are float32."""
    path = base_path(origin.folder)
    model = load_model(path, config, origin.dtype)
    model = set_trainable(model, optimizer, added_ids(path, config))
    if origin.adapters:
        model.load_adapter(origin.adapters, model.active_adapter, is_trainable=True)
    return model


def adapter_shape(config: ModelConfig, optimizer: OptimizerConfig) -> dict[str, Any]:
    """Return what adapters of a training section have in common with those that can go on."""
    assert optimizer.lora
    return {
        "lora.rank": optimizer.lora.rank,
        "lora.alpha": optimizer.lora.alpha,
        "lora.train_head": optimizer.lora.train_head,
        "freeze: projector": "projector" in optimizer.freeze,
        "freeze: head": optimizer.trains_rows and bool(config.added_tokens),
    }


def base_dtype(
    config: ModelConfig, optimizer: OptimizerConfig, before: OptimizerConfig | None = None
) -> str:
    """Return the precision that weights are held in.

    Args:
        config: The model section.
        optimizer: The training section.
        before: The section that the model was trained by before, or None.
    """
    if not optimizer.lora:
        return "float32"
    shapes = [adapter_shape(config, one) for one in (before, optimizer) if one and one.lora]
    goes_on = before is None or (len(shapes) == 2 and shapes[0] == shapes[1])
    return config.dtype if goes_on else "float32"


def write_adapters(
    folder: Path, weights: Path, origin: Origin, config: ModelConfig, optimizer: OptimizerConfig
) -> None:
    """Write the adapters of a model folder beside its merged weights.

    Args:
        folder: The model folder.
        weights: Folder written by the trainer.
        origin: What the training has started from.
        config: The model section.
        optimizer: The training section.
    """
    (folder / ADAPTERS).mkdir()
    for name in ADAPTER_FILES:
        shutil.copyfile(weights / name, folder / ADAPTERS / name)
    base: dict[str, Any] = {"base": str(origin.folder), "sha256": model_sha256(origin.folder)}
    base |= {"dtype": origin.dtype, "shape": adapter_shape(config, optimizer)}
    write_json(folder / ADAPTERS / TRAINED_ON, base)
