"""What SFT and GRPO share: preparing the model, arguments, progress, history and saving."""

import math
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from transformers import TrainerCallback

from medtune.config import ModelConfig, OptimizerConfig
from medtune.console import ProgressLine, say
from medtune.errors import ModelError
from medtune.files import HISTORY, atomic_folder, write_json, write_manifest
from medtune.models.loading import load_model

# Durations and rates differ between runs; they are shown but kept out of the recorded history.
VOLATILE = re.compile(r"runtime|per_second|step_time|profiling|flos")
LANGUAGE_LINEAR = r".*language_model.*\.(q|k|v|o|gate|up|down)_proj"
PROJECTORS = ("merger", "deepstack_merger_list")


def part_of(name: str) -> str:
    """Return the part (vision, projector, language) that a parameter belongs to."""
    if "visual." not in name:
        return "language"
    return "projector" if any(projector in name for projector in PROJECTORS) else "vision"


def trainable_model(path: str | Path, config: ModelConfig, optimizer: OptimizerConfig) -> Any:
    """Return a model with its trainable parameters set; trained weights are float32.

    Raises:
        ModelError: The configuration leaves nothing to train.
    """
    import torch

    lora = optimizer.lora
    reduced = lora and torch.cuda.is_available()
    model = load_model(path, config, config.dtype if reduced else "float32")
    if lora:
        from peft import LoraConfig, get_peft_model

        saved = None if "projector" in optimizer.freeze else list(PROJECTORS[:1])
        model = get_peft_model(
            model,
            LoraConfig(
                r=lora.rank,
                lora_alpha=lora.alpha,
                lora_dropout=lora.dropout,
                target_modules=LANGUAGE_LINEAR,
                modules_to_save=saved,
            ),
        )
    else:
        for name, parameter in model.named_parameters():
            parameter.requires_grad = part_of(name) not in optimizer.freeze
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    if trained == 0:
        raise ModelError(path, "every part is frozen", "shorten `freeze`")
    say(f"training {trained:,} of {sum(p.numel() for p in model.parameters()):,} parameters")
    return model


def shared_arguments(
    config: OptimizerConfig, model: ModelConfig, seed: int, folder: Path, steps: int
) -> dict[str, Any]:
    """Return the arguments that TRL's SFT and GRPO configurations have in common."""
    import torch

    return {
        "output_dir": str(folder),
        "max_steps": steps,
        "per_device_train_batch_size": config.batch_size,
        "gradient_accumulation_steps": config.gradient_accumulation,
        "learning_rate": config.learning_rate,
        "weight_decay": config.weight_decay,
        "max_grad_norm": config.max_grad_norm,
        "warmup_steps": round(config.warmup * steps),
        "gradient_checkpointing": config.gradient_checkpointing,
        "bf16": model.dtype == "bfloat16" and torch.cuda.is_available(),
        "logging_steps": config.log_every,
        "seed": seed,
        "remove_unused_columns": False,
        "dataloader_pin_memory": torch.cuda.is_available(),
        "report_to": "none",
        "save_strategy": "no",
        "disable_tqdm": True,
    }


class Progress(TrainerCallback):  # type: ignore[misc]
    """Shows one progress line and collects what is logged."""

    def __init__(self, title: str, total: int, shown: Sequence[str]) -> None:
        self.line = ProgressLine(title, total)
        self.shown = shown
        self.note = ""
        self.history: list[dict[str, Any]] = []

    def on_train_begin(self, *_: Any, **__: Any) -> None:
        """Start the progress line."""
        self.line.__enter__()

    def on_step_end(self, *_: Any, **__: Any) -> None:
        """Advance by one optimiser step."""
        self.line.advance(note=self.note)

    def on_log(self, _: Any, state: Any, __: Any, logs: dict[str, Any], **___: Any) -> None:
        """Record the log entry, show the chosen values, and stop if training has diverged."""
        for key in ("loss", "grad_norm"):
            if not math.isfinite(float(logs.get(key, 0.0))):
                raise ModelError(
                    f"step {state.global_step}",
                    f"{key} is {logs[key]}",
                    "lower the learning rate, or look at the samples of this step",
                )
        kept = {key: value for key, value in logs.items() if not VOLATILE.search(key)}
        self.history.append({"step": state.global_step} | kept)
        parts = [f"{key} {float(logs[key]):.3g}" for key in self.shown if key in logs]
        self.note = "  ".join(parts) or self.note

    def on_train_end(self, *_: Any, **__: Any) -> None:
        """Close the progress line."""
        self.line.__exit__()


def save_result(
    model: Any,
    processor: Any,
    folder: Path,
    history: list[dict[str, Any]],
    config: dict[str, Any],
    parents: Sequence[Path],
) -> None:
    """Write the complete model, its processor, its history and, last, its manifest.

    Adapters are merged, so that every model folder can be used alone.
    """
    if hasattr(model, "merge_and_unload"):
        model = model.merge_and_unload()
    with atomic_folder(folder) as temporary:
        model.save_pretrained(temporary)
        processor.save_pretrained(temporary)
        write_json(temporary / HISTORY, history)
        files = [path for path in temporary.rglob("*") if path.is_file()]
        write_manifest(temporary, files, config, parents)
    say(f"model: {folder}")
