"""Loading models and processors, and refusing folders that cannot be loaded."""

import os
from pathlib import Path
from typing import Any

from medtune.config.training import ModelConfig
from medtune.models.positions import correct_positions
from medtune.models.torchvision_ops import declare_missing_ops
from medtune.models.vision_tower import with_one_pass
from medtune.runtime.errors import ModelError
from medtune.runtime.files import read_json

WEIGHTS = ("model.safetensors", "model.safetensors.index.json", "adapter_model.safetensors")
# The `model_type` of a family's configuration, where it is not the family's name.
MODEL_TYPES = {"llava_med": ("llava", "llava_mistral")}


def check_folder(folder: Path, family: str) -> None:
    """Check that a model folder has a configuration of the family, a processor and weights.

    Raises:
        ModelError: Something is missing; the message lists what was looked for.
    """
    if not folder.is_dir():
        raise ModelError(folder, "there is no such model folder", "correct `model.path`")
    if not (folder / "config.json").is_file():
        raise ModelError(folder, "has no config.json", "give a folder saved by save_pretrained")
    found = read_json(folder / "config.json").get("model_type")
    if found not in MODEL_TYPES.get(family, (family,)):
        raise ModelError(folder, f"is a {found}, expected {family}", "correct `model.family`")
    if not any((folder / name).is_file() for name in WEIGHTS):
        raise ModelError(
            folder,
            f"has no safetensors weights (looked for {', '.join(WEIGHTS)})",
            "copy the weights there; pickled weights are not loaded",
        )
    if family != "chexagent" and not any(folder.glob("*processor_config.json")):
        raise ModelError(folder, "has no processor", "copy its *processor_config.json there")


def check_base(config: ModelConfig) -> Path | None:
    """Return the local folder of `model.path` after checking it, or None if it must be fetched.

    Raises:
        ModelError: A local folder is unusable, or a hub id is given and `download` is off.
    """
    assert config.path is not None
    folder = Path(config.path).expanduser()
    if folder.is_dir() or config.path.startswith((".", "/", "~")):
        check_folder(folder, config.family)
        return folder
    if not config.download:
        raise ModelError(
            config.path,
            "is no folder, and fetching it from the hub is switched off",
            "set `model.download: true`, or give a local folder",
        )
    return None


def fetch_base(config: ModelConfig) -> Path:
    """Return the local folder of `model.path`, fetched from the hub if that is allowed.

    This is the only place that reaches for the network; later stages use the local copy.
    """
    folder = check_base(config)
    if folder is None:
        os.environ["HF_HUB_OFFLINE"] = "0"
        from huggingface_hub import snapshot_download

        folder = Path(snapshot_download(str(config.path), revision=config.revision))
        check_folder(folder, config.family)
    return folder


def load_processor(path: str | Path) -> Any:
    """Return a processor that pads on the left."""
    declare_missing_ops()
    from transformers import AutoProcessor

    processor = AutoProcessor.from_pretrained(str(path))
    processor.tokenizer.padding_side = "left"
    return processor


def load_model(path: str | Path, config: ModelConfig, dtype: str = "float32") -> Any:
    """Return a model with correct positions and one pass of its tower, in evaluation mode.

    Of its generation settings only the special tokens are kept: released models ship penalties
    and cut-offs that `generate` would silently add to ours, in rollouts and in answers.

    Args:
        path: Folder.
        config: The model section (attention implementation).
        dtype: Precision of the weights.
    """
    declare_missing_ops()
    from transformers import AutoModelForImageTextToText
    from transformers.utils import logging

    logging.disable_progress_bar()
    model = AutoModelForImageTextToText.from_pretrained(
        str(path),
        dtype=dtype,
        attn_implementation=config.attn_implementation,
        use_safetensors=True,
    )
    correct_positions(model)
    with_one_pass(model)
    return with_plain_settings(model)


def end_tokens(settings: Any, tokenizer: Any) -> tuple[int, ...]:
    """Return the tokens of which the first one ends an answer, wherever it is sampled.

    Qwen's models declare two: the end of a turn, and the end of a text. TRL's trainer stops at the
    same set.

    Args:
        settings: The model's generation settings.
        tokenizer: Its tokenizer.
    """
    declared = settings.eos_token_id
    declared = declared if isinstance(declared, list) else [declared]
    ends = {int(token) for token in (*declared, tokenizer.eos_token_id) if token is not None}
    return tuple(sorted(ends))


def with_plain_settings(model: Any) -> Any:
    """Return a model in evaluation mode, of whose generation settings only the tokens are left."""
    from transformers import GenerationConfig

    tokens = ("bos_token_id", "eos_token_id", "pad_token_id")
    kept = {name: getattr(model.generation_config, name) for name in tokens}
    model.generation_config = GenerationConfig(**kept)
    return model.eval()
