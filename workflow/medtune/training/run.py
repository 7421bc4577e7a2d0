"""What SFT and GRPO share: preparing the model, arguments, progress and the run itself."""

import math
import re
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from transformers import PrinterCallback, TrainerCallback

from medtune.config.stages import GrpoStage, SftStage, TrackingStage
from medtune.config.training import ModelConfig, OptimizerConfig
from medtune.models.base_reference import base_path
from medtune.models.coordinate_format import COORDINATE_FORMATS
from medtune.models.vision import vision_record
from medtune.orchestration.launch import check_processes
from medtune.records.sample import from_row, load_split
from medtune.runtime import stopping
from medtune.runtime.console import PROCESSES, ProgressLine, log
from medtune.runtime.errors import ModelError
from medtune.runtime.fingerprint import code_sha256
from medtune.tasks import get_task
from medtune.training.checkpoints import (
    Checkpoints,
    StopAtCheckpoint,
    about,
    resume_point,
    save_steps,
    whole_steps,
)
from medtune.training.checks import check_vision
from medtune.training.distributed import all_gather_object, broadcast_from_rank0
from medtune.training.memory_check import try_largest_batch
from medtune.training.origin import from_origin, origin_of
from medtune.training.result import save_result, section_of
from medtune.training.resume import Record, choose_run, record_of
from medtune.training.strategy import (
    forget_sharding,
    settle_strategy,
    sizes,
    strategy_arguments,
)
from medtune.training.timing import Timing
from medtune.training.tracking import make_tracker
from medtune.training.validation import stopped_early
from medtune.training.watchdog import watched

# Durations and rates differ between runs, and sums over a run that went on cover its last part
# only: they are kept out of the recorded history.
VOLATILE = re.compile(r"runtime|per_second|step_time|profiling|flos|^train_loss$|num_tokens")


def trainable_model(path: str | Path, config: ModelConfig, optimizer: OptimizerConfig) -> Any:
    """Return a model with its trainable parameters set; trained weights are float32.

    Args:
        path: Model folder; of one that was trained by adapters of the same shape they go on.
        config: The model section.
        optimizer: The training section.
    """
    origin = origin_of(Path(path), config, optimizer)
    if origin.why:
        log(f"start: {path} in {origin.dtype}: {origin.why}")
    return from_origin(origin, config, optimizer)


def shared_arguments(
    config: OptimizerConfig, model: ModelConfig, seed: int, steps: int, cycle: int = 1
) -> dict[str, Any]:
    """Return the arguments that TRL's SFT and GRPO configurations have in common.

    Args:
        config: The training section.
        model: The model section.
        seed: The experiment's seed.
        steps: Optimizer steps.
        cycle: Steps for which rollouts are used.
    """
    import torch

    return {
        "output_dir": tempfile.gettempdir(),  # nothing is written there; see `Resumable`
        "max_steps": steps,
        "per_device_train_batch_size": config.batch_size,
        "gradient_accumulation_steps": config.gradient_accumulation,
        "learning_rate": config.learning_rate,
        "weight_decay": config.weight_decay,
        "max_grad_norm": config.max_grad_norm,
        "warmup_steps": round(config.warmup_ratio * steps),
        "gradient_checkpointing": config.gradient_checkpointing,
        "bf16": model.dtype == "bfloat16",
        "use_cpu": not torch.cuda.is_available(),
        "logging_steps": config.logging_steps,
        "logging_nan_inf_filter": False,  # would replace a NaN loss by an earlier one
        "seed": seed,
        "remove_unused_columns": False,
        "dataloader_pin_memory": torch.cuda.is_available(),
        "report_to": "none",
        "save_strategy": "steps",
        "save_steps": save_steps(config, cycle),
        "disable_tqdm": True,
        **strategy_arguments(config, model),
    }


def not_finite(logs: Mapping[str, Any]) -> str | None:
    """Return what is NaN or infinite in a log entry, or None."""
    for key, value in logs.items():
        # TRL writes None for a mean that has no number but NaN; of clipped shares that is so
        # where every answer was left out of the loss.
        if value is None and key.startswith("clip_ratio/"):
            continue
        if value is None or not math.isfinite(float(value)):
            return f"{key} is {value}"
    return None


class AtTheStart(TrainerCallback):  # type: ignore[misc]
    """Runs a check on the model where and as it will be trained: on its device, sharded."""

    def __init__(self, check: Callable[[], None]) -> None:
        self.check = check

    def on_train_begin(self, *_: Any, model: Any, **__: Any) -> None:
        """Run the check on the model in evaluation mode."""
        training = model.training
        model.eval()
        self.check()
        model.train(training)


class Progress(TrainerCallback):  # type: ignore[misc]
    """Shows one progress line and collects what is logged."""

    def __init__(self, title: str, total: int, shown: Sequence[str]) -> None:
        self.line = ProgressLine(title, total)
        self.shown = shown
        self.note = ""
        self.history: list[dict[str, Any]] = []

    def on_train_begin(self, _: Any, state: Any, *__: Any, **___: Any) -> None:
        """Start the progress line, after what an interrupted run has done and logged."""
        self.line.__enter__()
        self.history = []
        for entry in state.log_history:
            self._record(entry)
        self.line.resume(state.global_step)

    def on_step_end(self, *_: Any, **__: Any) -> None:
        """Advance by one optimizer step."""
        self.line.advance(note=self.note)

    def on_log(self, _: Any, state: Any, __: Any, logs: dict[str, Any], **___: Any) -> None:
        """Record the log entry, show the chosen values, and stop if training has diverged.

        Raises:
            ModelError: A logged number is NaN or infinite, in this process or another: all raise.
                The last entry, the mean loss of the run, covers steps that no other entry does.
        """
        for found in all_gather_object(not_finite(logs)):
            if found:
                raise ModelError(
                    f"step {state.global_step}",
                    f"{found}, expected a finite number",
                    "lower the learning rate, or look at the samples since the last log entry",
                )
        self._record({"step": state.global_step} | logs)
        parts = [f"{key} {float(logs[key]):.3g}" for key in self.shown if key in logs]
        self.note = "  ".join(parts) or self.note

    def _record(self, entry: Mapping[str, Any]) -> None:
        """Keep a log entry, unless nothing in it lasts."""
        kept = {key: value for key, value in entry.items() if not VOLATILE.search(key)}
        if kept.keys() - {"step", "epoch"}:
            self.history.append(kept)

    def on_train_end(self, *_: Any, **__: Any) -> None:
        """Close the progress line."""
        self.line.__exit__()


def run_training(
    trainer: Any,
    progress: Progress,
    stage: SftStage | GrpoStage,
    start: Path,
    parents: Sequence[Path],
    dataset: Path,
    output: Path,
    cycle: int = 1,
    tracking: TrackingStage | None = None,
) -> None:
    """Prove that the model sees its videos, train it, and write the model folder `output`.

    Args:
        trainer: TRL's trainer; its model stands where it will be trained.
        progress: Shows and collects the log.
        stage: The configuration.
        start: Folder of the model that is trained.
        parents: Manifests and tables that the run depends on.
        dataset: Folder of the data set.
        output: Model folder; written as a whole, manifest last.
        cycle: Steps for which rollouts are used.
        tracking: Where figures go besides.
    """
    name, section = section_of(stage)
    trainer.section = section
    trainer.remove_callback(PrinterCallback)
    settle_strategy(trainer, section.strategy, stage.model)
    check_processes()
    log("training {:,} of {:,} parameters".format(*sizes(trainer.model)))
    seen = vision_record(base_path(start), from_row(dict(load_split(dataset, "train")[0])))
    origin = origin_of(start, stage.model, section)
    record = record_of(stage, start, dataset, parents[2:])
    record |= {"adapters_go_on": origin.adapters is not None}
    point = find_point(trainer, stage, record, output)
    tracker = make_tracker(tracking, output, trainer.checkpoints.folder.name)
    trainer.tracker, trainer.media_root = tracker, dataset
    times = output.with_name(f"{output.name}.timing.jsonl")
    for callback in (
        progress,
        StopAtCheckpoint(whole_steps(section, cycle)),
        AtTheStart(lambda: check_start(trainer, stage, dataset)),
        Timing(trainer, times, section.logging_steps),
        *tracker.callbacks,
    ):
        trainer.add_callback(callback)
    with watched(trainer, section.step_timeout_minutes):
        with stopping.delayed():
            trainer.train(resume_from_checkpoint=None if point is None else str(point))
        ended = why_ended(trainer.state, section.patience, name)
        weights, step = trainer.result()
        if trainer.is_world_process_zero():
            forget_sharding()
            facts = {"step": step, "ended": ended, "processes": PROCESSES, "seen": dict(seen)}
            save_result(trainer, stage, origin, weights, output, progress.history, parents, facts)
            trainer.checkpoints.clear()
        tracker.close()
        trainer.accelerator.wait_for_everyone()
        if PROCESSES > 1:  # a vLLM in this process keeps a group of its own
            trainer.accelerator.end_training()  # left to the interpreter's exit, it may abort


def find_point(
    trainer: Any, stage: SftStage | GrpoStage, record: Record, output: Path
) -> Path | None:
    """Give a trainer its checkpoints, and return the one to go on from, if there is one."""
    folder, changes = broadcast_from_rank0(lambda: choose_run(type(stage), output, record))
    trainer.checkpoints = Checkpoints(folder)
    point = resume_point(trainer.checkpoints)
    code = code_sha256(section_of(stage)[0])
    trainer.checkpoints.about = about(point, record, code, changes)
    return point


def check_start(trainer: Any, stage: SftStage | GrpoStage, dataset: Path) -> None:
    """Check that the model sees what it is shown, and that its longest sample fits."""
    processor, task = trainer.processing_class, get_task(stage.task)
    with trainer.accelerator.autocast():
        check_vision(
            trainer.model, processor, task, COORDINATE_FORMATS[stage.model.family], dataset
        )
    try_largest_batch(trainer, stage, dataset)


def why_ended(state: Any, patience: int | None, name: str) -> str:
    """Return why a training has ended: after all its steps, or early by its evaluations.

    Args:
        state: The trainer's state.
        patience: Evaluations without a better one after which it stops, or None.
        name: The stage.

    Raises:
        ModelError: It has ended before its last step, and nothing has asked it to.
    """
    step, steps = state.global_step, state.max_steps
    if step == steps:
        return f"all {steps} steps"
    if reason := stopped_early(state.log_history, patience):
        return f"step {step} of {steps}, {reason}"
    raise ModelError(
        name,
        f"ended after step {step} of {steps}, though nothing has asked it to: no model is written",
        "the data ran out, or a sample ended the epoch; report it with the log",
    )
