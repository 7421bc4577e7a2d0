"""Time of training, from a few real optimizer steps on real samples, the longest one first."""

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from statistics import median
from typing import Any

import torch

from medtune.config.experiment import Config
from medtune.config.rollouts import RolloutConfig
from medtune.config.stages import GrpoStage, SftStage, load_stage, stage_json
from medtune.runtime.errors import ModelError
from medtune.runtime.files import MANIFEST
from medtune.training import memory_check as longest
from medtune.training.grpo import prepare_grpo
from medtune.training.sft import prepare_sft

STEPS = 3

# Steps are probed with rollouts by the learner, of any prompts, and without tables.
PLAIN = {
    "log_completions_steps": 0,
    "curriculum": None,
    "dynamic_sampling_rounds": 0,
    "rollouts": RolloutConfig(),
}


def seconds(work: Callable[[], None]) -> float:
    """Return the seconds that some work takes, what it started on a GPU included."""
    start = time.perf_counter()
    work()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter() - start


def optimizer_step(trainer: Any, optimizer: Any, batches: Iterator[Any]) -> None:
    """Take one optimizer step of a trainer outside its loop, on the batches it would take."""
    passes = trainer.args.gradient_accumulation_steps
    trainer.current_gradient_accumulation_steps = passes
    with trainer.accelerator.autocast():
        for _ in range(passes):
            trainer.training_step(trainer.model, next(batches), None)
    torch.nn.utils.clip_grad_norm_(trainer.model.parameters(), trainer.args.max_grad_norm)
    optimizer.step()
    optimizer.zero_grad()


def endless(trainer: Any) -> Iterator[Any]:
    """Yield a trainer's batches, epoch after epoch."""
    while True:
        yield from trainer.get_train_dataloader()


def probe(config: Config, results: Path) -> dict[str, dict[str, float]]:
    """Return, for sft and grpo, the seconds of every typical step and their median as `step`.

    The longest sample comes first, so that a lack of memory shows at once. Nothing is written.
    GRPO is tried on the SFT model if there is one, else on the base model, whose answers may be
    longer; evaluation and checkpoints are not part of the time.

    Args:
        config: The configuration.
        results: Folder of the experiment, with data set and base model.

    Raises:
        ModelError: These are not there, or the longest sample does not fit into memory.
    """
    base, dataset, sft = (results / name for name in ("base", "datasets", "sft"))
    for folder in (base, dataset):
        if not (folder / MANIFEST).is_file():
            raise ModelError(
                folder, "is needed to measure", f"run `snakemake {folder / MANIFEST}` first"
            )
    stages: dict[str, SftStage | GrpoStage] = {
        "sft": load_stage(SftStage, stage_json(config, "sft")),
        "grpo": load_stage(GrpoStage, stage_json(config, "grpo")),
    }
    start = sft if (sft / MANIFEST).is_file() else base
    return {name: _measured(stage, base, start, dataset) for name, stage in stages.items()}


def _measured(
    stage: SftStage | GrpoStage, base: Path, start: Path, dataset: Path
) -> dict[str, Any]:
    """Return the seconds of the typical steps of a stage; see `probe`."""
    if isinstance(stage, SftStage):
        trainer, _ = prepare_sft(stage, base, dataset)
        trainer.section = stage.sft
    else:
        quiet = stage.grpo.model_copy(update=PLAIN)
        stage = stage.model_copy(update={"grpo": quiet})
        trainer, _ = prepare_grpo(stage, start, dataset, start, None)
        trainer.section = quiet
    longest.try_largest_batch(trainer, stage, dataset, always=True)
    optimizer, batches = trainer.create_optimizer(), endless(trainer)
    taken = [seconds(lambda: optimizer_step(trainer, optimizer, batches)) for _ in range(STEPS)]
    return {"steps": taken, "step": median(taken)}
