"""Supervised fine-tuning on gold answers, with TRL's trainer and our video batches."""

import math
import tempfile
from pathlib import Path

from transformers import PrinterCallback
from trl import SFTConfig, SFTTrainer

from medtune.console import say
from medtune.files import MANIFEST, check_manifest
from medtune.models.base import base_path
from medtune.models.dialect import DIALECTS
from medtune.models.loading import load_processor
from medtune.schema import load_split
from medtune.stages import SftStage
from medtune.tasks import get_task
from medtune.training.batches import SftCollator
from medtune.training.checks import check_vision
from medtune.training.common import Progress, save_result, shared_arguments, trainable_model


def _arguments(stage: SftStage, folder: Path, steps: int, validate: bool) -> SFTConfig:
    sft = stage.sft
    shared = shared_arguments(sft, stage.model, stage.seed, folder, steps)
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
    for parent in (dataset, base):
        check_manifest(parent / MANIFEST)
    train = load_split(dataset, "train")
    val = load_split(dataset, "val", allow_empty=True)
    if len(val) == 0:
        say("validation loss: not run, the validation split is empty")
    sft = stage.sft
    per_step = sft.batch_size * sft.gradient_accumulation
    steps = max(1, math.ceil(sft.epochs * len(train) / per_step))
    processor = load_processor(base_path(base))
    task, dialect = get_task(stage.task), DIALECTS[stage.model.family]
    collator = SftCollator(processor, task, dialect, dataset)
    model = trainable_model(base_path(base), stage.model, sft)
    check_vision(model, processor, task, dialect, train, dataset)
    progress = Progress("SFT", steps, ("loss", "eval_loss"))
    with tempfile.TemporaryDirectory() as work:
        trainer = SFTTrainer(
            model=model,
            args=_arguments(stage, Path(work), steps, validate=len(val) > 0),
            data_collator=collator,
            train_dataset=train,
            eval_dataset=val if len(val) else None,
            processing_class=processor,
            callbacks=[progress],
        )
        trainer.remove_callback(PrinterCallback)
        trainer.train()
    save_result(
        trainer.model,
        processor,
        output,
        progress.history,
        stage.model_dump(mode="json"),
        [dataset / MANIFEST, base / MANIFEST],
    )
