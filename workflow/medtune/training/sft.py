"""Supervised fine-tuning on gold answers, with TRL's trainer and our video batches."""

import math
from pathlib import Path

from transformers import set_seed
from trl import SFTConfig, SFTTrainer

from medtune.console import PROCESSES, say
from medtune.files import MANIFEST, check_manifest
from medtune.models.base import base_path
from medtune.models.dialect import DIALECTS
from medtune.models.loading import load_processor
from medtune.schema import load_split
from medtune.stages import SftStage
from medtune.tasks import get_task
from medtune.training.batches import SftCollator
from medtune.training.checkpoints import Resumable
from medtune.training.common import Progress, run_training, shared_arguments, trainable_model


class VideoSFTTrainer(Resumable, SFTTrainer):  # type: ignore[misc]
    """TRL's SFT trainer, with our checkpoints."""


def _arguments(stage: SftStage, steps: int, validate: bool) -> SFTConfig:
    sft = stage.sft
    shared = shared_arguments(sft, stage.model, stage.seed, steps)
    return SFTConfig(
        **shared,
        lr_scheduler_type="warmup_stable_decay",
        lr_scheduler_kwargs={
            "num_decay_steps": round(sft.decay * (steps - shared["warmup_steps"])),
            "decay_type": "linear",
            "min_lr_ratio": 0.0,
        },
        eval_strategy="steps" if validate else "no",
        eval_steps=sft.evaluate_every,
        per_device_eval_batch_size=sft.batch_size,
        dataset_kwargs={"skip_prepare_dataset": True},
        max_length=None,
    )


def train_sft(stage: SftStage, base: Path, dataset: Path, output: Path) -> None:
    """Fine-tune `base` on the training split and write the model folder `output`.

    Args:
        stage: The configuration.
        base: Folder of the base model, written by `medtune model` (its manifest is checked).
        dataset: Folder of the data set (its manifest is checked first).
        output: Model folder; written as a whole, manifest last.
    """
    set_seed(stage.seed)  # the trainer would seed too late for the adapters
    for parent in (dataset, base):
        check_manifest(parent / MANIFEST)
    source = base_path(base)
    train = load_split(dataset, "train")
    val = load_split(dataset, "val", allow_empty=True)
    load_split(dataset, "test")  # nothing to evaluate on: better known now than after training
    if len(val) == 0:
        say("validation loss: not run, the validation split is empty")
    sft = stage.sft
    per_step = sft.batch_size * sft.gradient_accumulation * PROCESSES
    steps = max(1, math.ceil(sft.epochs * len(train) / per_step))
    processor = load_processor(source)
    task, dialect = get_task(stage.task), DIALECTS[stage.model.family]
    collator = SftCollator(processor, task, dialect, dataset)
    progress = Progress("SFT", steps, ("loss", "eval_loss"))
    trainer = VideoSFTTrainer(
        model=trainable_model(source, stage.model, sft),
        args=_arguments(stage, steps, validate=len(val) > 0),
        data_collator=collator,
        train_dataset=train,
        eval_dataset=val if len(val) else None,
        processing_class=processor,
    )
    run_training(trainer, progress, stage, base, dataset, output)
