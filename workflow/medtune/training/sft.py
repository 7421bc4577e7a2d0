"""Supervised fine-tuning on gold answers, with TRL's trainer and our video batches."""

import math
from pathlib import Path
from typing import Any

from datasets import Dataset
from torch.utils.data import DataLoader
from transformers import set_seed
from trl import SFTConfig, SFTTrainer
from trl.models import unwrap_model_for_generation

from medtune.config.stages import SftStage, TrackingStage
from medtune.config.training import SftConfig
from medtune.dataset.mixing import mixed
from medtune.models.base_reference import base_path
from medtune.models.coordinate_format import COORDINATE_FORMATS
from medtune.models.loading import load_processor
from medtune.records.sample import iterate, load_split
from medtune.rewards.base import saved_failures
from medtune.runtime.console import PROCESSES, log
from medtune.runtime.files import MANIFEST, check_manifest
from medtune.tasks import get_task
from medtune.training.batches import SftCollator
from medtune.training.checkpoints import Resumable
from medtune.training.optimizer import PartRates
from medtune.training.padded_batches import PaddedDataset, PaddedSampler, filled_length
from medtune.training.resume import is_finished
from medtune.training.run import Progress, run_training, shared_arguments, trainable_model
from medtune.training.token_budget import BudgetBatches, check_lengths
from medtune.training.validation import (
    EarlyStopping,
    ValidationGenerations,
    held_out,
    validation_split,
)


class VideoSFTTrainer(Resumable, PartRates, SFTTrainer):  # type: ignore[misc]
    """TRL's SFT trainer, with our checkpoints, rates and evaluation.

    Attributes:
        answers: What is answered at every evaluation, or None.
        batches: Batches of the training split by a budget of tokens, or None.
        answer_tokens: Mean tokens of a row of the validation split that count: a blank has none.
    """

    answers: ValidationGenerations | None = None
    batches: BudgetBatches | None = None
    answer_tokens: float

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        # The models say no, but TRL's loss divides by the tokens of the whole optimizer step. It
        # would else be a mean of means, in which short answers weigh more in smaller batches.
        self.model_accepts_loss_kwargs = True

    def get_train_dataloader(self) -> DataLoader[Any]:
        """Return the batches by budget, if there is one."""
        if self.batches is None:
            loader: DataLoader[Any] = super().get_train_dataloader()
            return loader
        # Not prepared by accelerate, which repeats batches; the trainer moves them.
        return DataLoader(
            PaddedDataset(self.train_dataset, 1),
            batch_sampler=self.batches,
            collate_fn=self.data_collator,
            pin_memory=self.args.dataloader_pin_memory,
        )

    def _get_dataloader(self, dataset: Any, description: str, batch_size: int, **more: Any) -> Any:
        """Return batches that several processes share as one process would go through them."""
        if PROCESSES > 1:
            dataset = PaddedDataset(dataset, batch_size)
        return super()._get_dataloader(dataset, description, batch_size, **more)

    def _get_train_sampler(self, train_dataset: Any = None) -> Any:
        """Return the order of the training split, which is the same for any number of processes."""
        if isinstance(train_dataset, PaddedDataset):
            return PaddedSampler(train_dataset, self.args.seed)
        return super()._get_train_sampler(train_dataset)

    def _run_epoch(self, *args: Any, epoch: int, **kwargs: Any) -> None:
        """Choose the epoch's batches, then train on them."""
        if self.batches is not None:
            self.batches.set_epoch(epoch)
        super()._run_epoch(*args, epoch=epoch, **kwargs)

    def compute_loss(
        self,
        model: Any,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: Any = None,
    ) -> Any:
        """Return TRL's loss; in evaluation such that the trainer's mean over rows is by tokens."""
        if not model.training:
            rows = len(inputs["labels"]) * self.accelerator.num_processes
            num_items_in_batch = rows * self.answer_tokens
        return super().compute_loss(model, inputs, return_outputs, num_items_in_batch)

    def evaluation_loop(self, *args: Any, **kwargs: Any) -> Any:
        """Return the losses' mean and, if wanted, what greedy answers are worth."""
        # Both may go past the wrapped forward that would switch to the compute precision.
        with self.accelerator.autocast():
            output = super().evaluation_loop(*args, **kwargs)
            if self.answers:
                whole = unwrap_model_for_generation(self.model_wrapped, self.accelerator)
                with whole as model:
                    output.metrics.update(self.answers.figures(model))
        return output


def _arguments(stage: SftStage, steps: int) -> SFTConfig:
    sft = stage.sft
    shared = shared_arguments(sft, stage.model, stage.seed, steps)
    return SFTConfig(
        **shared,
        lr_scheduler_type="warmup_stable_decay",
        lr_scheduler_kwargs={
            "num_decay_steps": round(sft.decay_ratio * (steps - shared["warmup_steps"])),
            "decay_type": "linear",
            "min_lr_ratio": 0.0,
        },
        per_device_eval_batch_size=sft.batch_size,
        dataset_kwargs={"skip_prepare_dataset": True},
        max_length=None,
    )


def budget_batches(stage: SftStage, collator: SftCollator, train: Dataset) -> BudgetBatches | None:
    """Return this process's batches of `sft.max_tokens_per_batch`, or None if it is off.

    Raises:
        DataError: A sample is longer than the budget.
    """
    budget = stage.sft.max_tokens_per_batch
    if budget is None:
        return None
    lengths = [collator.length(sample) for sample in iterate(train)]
    check_lengths(train["id"], lengths, budget)
    batches = BudgetBatches(lengths, budget, stage.seed)
    count = len(batches.sizes)
    log(f"{count} batches per epoch, of {len(train) / count:.1f} samples on average")
    return batches


def optimizer_steps(sft: SftConfig, samples: int, batches: BudgetBatches | None) -> int:
    """Return the optimizer steps of a run."""
    if batches is None:
        per_step = sft.batch_size * sft.gradient_accumulation * PROCESSES
        return max(1, math.ceil(sft.epochs * samples / per_step))
    return math.ceil(sft.epochs * math.ceil(len(batches) / sft.gradient_accumulation))


def train_sft(
    stage: SftStage,
    base: Path,
    dataset: Path,
    output: Path,
    tracking: TrackingStage | None = None,
) -> None:
    """Fine-tune `base` on the training split and write the model folder `output`.

    Args:
        stage: The configuration.
        base: Folder of the base model, written by `medtune model` (its manifest is checked).
        dataset: Folder of the data set (its manifest is checked first).
        output: Model folder; written as a whole, manifest last.
        tracking: Where figures go besides.

    Raises:
        RewardError: A reward term failed; `<output>.failed_reward.json` says on what.
    """
    parents = [dataset / MANIFEST, base / MANIFEST]
    if is_finished(stage, output, parents):
        return
    trainer, progress = prepare_sft(stage, base, dataset)
    with saved_failures(output):
        run_training(trainer, progress, stage, base, parents, dataset, output, tracking=tracking)


def prepare_sft(stage: SftStage, base: Path, dataset: Path) -> tuple[VideoSFTTrainer, Progress]:
    """Return the trainer, ready to train, and what shows and collects its log.

    Args:
        stage: The configuration.
        base: Folder of the base model (its manifest is checked).
        dataset: Folder of the data set (its manifest is checked first).
    """
    set_seed(stage.seed)  # the trainer would seed too late for the adapters
    for parent in (dataset, base):
        check_manifest(parent / MANIFEST)
    source = base_path(base)
    train = mixed(load_split(dataset, "train"), stage.sft.dataset_weights, stage.seed)
    val = validation_split(dataset)
    load_split(dataset, "test")  # nothing to evaluate on: better known now than after training
    sft = stage.sft
    processor = load_processor(source)
    task, dialect = get_task(stage.task), COORDINATE_FORMATS[stage.model.family]
    collator = SftCollator(processor, task, dialect, dataset)
    batches = budget_batches(stage, collator, train)
    steps = optimizer_steps(sft, len(train), batches)
    progress = Progress("SFT", steps, ("loss", "eval_loss", "eval_reward"))
    arguments = _arguments(stage, steps)  # first: models load as they say
    trainer = VideoSFTTrainer(
        model=trainable_model(source, stage.model, sft),
        args=arguments,
        data_collator=collator,
        train_dataset=train,
        eval_dataset=val if len(val) else None,
        processing_class=processor,
    )
    trainer.batches = batches
    if len(val) > 0:
        trainer.answers = held_out(collator, val, stage, sft.batch_size)
        tokens = sum(collator.learned(sample) for sample in iterate(val))
        trainer.answer_tokens = tokens / filled_length(len(val), sft.batch_size)
        trainer.add_callback(EarlyStopping(trainer, sft))
    return trainer, progress
