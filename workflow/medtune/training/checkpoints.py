"""Checkpoints from which an interrupted run goes on exactly: same samples, same losses.

A checkpoint is written aside, synced and renamed; its marker comes last, so a half-written one is
never chosen. Those of one run lie in one folder; `resume` says which runs go on there. Tables of
rollouts are kept beside them until the model is written.
"""

import math
import os
import shutil
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from transformers import TrainerCallback

from medtune.config.training import OptimizerConfig
from medtune.runtime import stopping
from medtune.runtime.console import RANK, log
from medtune.runtime.files import COMPLETIONS, read_json, sync, write_json
from medtune.training.distributed import all_gather_object

MARKER = "complete.json"
PREFIX = "checkpoint-"
BEST = "best-"
PARTIAL = ".partial"
# accelerate calls the device of one of several processes on CPUs cpu:0: torch cannot load to it.
torch.serialization.register_package(
    0, lambda _: None, lambda storage, place: storage if place == "cpu:0" else None
)


class Checkpoints:
    """The checkpoints of one run.

    Args:
        folder: Where they lie, beside those of other runs of the stage.

    Attributes:
        about: What they remember of the run: `run`, what tells it from others, and in order the
            `codes`, hashes of the code that has trained, and `changes` of its configuration.
    """

    def __init__(self, folder: Path) -> None:
        self.folder, self.tables = folder, folder / COMPLETIONS
        self.about: dict[str, Any] = {}

    def newest(self) -> Path | None:
        """Return the newest complete checkpoint, or None."""
        found = [path for path in self.folder.glob(f"{PREFIX}*") if _is_complete(path)]
        return max(found, key=step_of, default=None)

    def keep(self, written: Path) -> None:
        """Take in a checkpoint that was written aside, and forget older ones and older bests.

        Args:
            written: Folder `checkpoint-<step>` below `folder/.partial`.
        """
        files = sorted(path for path in written.rglob("*") if path.is_file())
        sizes = {str(path.relative_to(written)): path.stat().st_size for path in files}
        for path in files:
            sync(path)
        write_json(written / MARKER, {"sizes": sizes, **self.about})
        target = self.folder / written.name
        shutil.rmtree(target, ignore_errors=True)  # of a run that stopped in the same step
        written.replace(target)
        sync(self.folder)
        for older in self.folder.glob(f"{PREFIX}*"):
            if older != target:
                shutil.rmtree(older)
        for best in self.folder.glob(f"{BEST}*"):
            if best != self.best():
                shutil.rmtree(best)

    def keep_best(self, written: Path, step: int) -> None:
        """Take in the best weights so far, which were written aside.

        The former ones stay until the next checkpoint: a run may have to go on from before them.

        Args:
            written: Folder below `folder/.partial`.
            step: Step they were evaluated at.
        """
        for path in written.rglob("*"):
            if path.is_file():
                sync(path)
        target = self.folder / f"{BEST}{step}"
        shutil.rmtree(target, ignore_errors=True)
        written.replace(target)
        sync(self.folder)

    def best(self) -> Path | None:
        """Return the folder of the best weights so far, or None: of those kept, the newest."""
        return max(self.folder.glob(f"{BEST}*"), key=step_of, default=None)

    def forget_best_after(self, step: int) -> None:
        """Remove best weights of steps that will be done again."""
        for best in self.folder.glob(f"{BEST}*"):
            if step_of(best) > step:
                shutil.rmtree(best)

    def table(self, step: int) -> Path:
        """Return where the table of a step's rollouts belongs."""
        return self.tables / f"step-{step:05d}.parquet"

    def forget_tables_after(self, step: int) -> None:
        """Remove the tables of steps that will be done again."""
        for path in self.tables.glob("step-*.parquet"):
            if int(path.stem.removeprefix("step-")) > step:
                path.unlink()

    def clear(self) -> None:
        """Remove what is here, since the model has been written; other runs' checkpoints stay."""
        shutil.rmtree(self.folder, ignore_errors=True)
        stage = self.folder.parent
        for other in stage.glob("*"):
            if not any(other.glob(f"{PREFIX}*")):  # it ended before its first
                shutil.rmtree(other)
        for emptied in (stage, stage.parent):
            with suppress(OSError):  # it is not empty
                emptied.rmdir()


def step_of(kept: Path) -> int:
    """Return the step of the folder of a checkpoint or of best weights."""
    return int(kept.name.rpartition("-")[2])


def _is_complete(checkpoint: Path) -> bool:
    """Return whether the marker is there and every file has the size it names."""
    if not (checkpoint / MARKER).is_file():
        return False
    sizes: dict[str, int] = read_json(checkpoint / MARKER)["sizes"]
    files = {name: checkpoint / name for name in sizes}
    return all(path.is_file() and path.stat().st_size == sizes[n] for n, path in files.items())


def save_steps(config: OptimizerConfig, cycle: int) -> int:
    """Return the steps between checkpoints: about `save_steps`, where nothing is half done.

    Means are logged over `logging_steps` steps, and rollouts are used for `cycle` steps: between
    these, a run could not go on exactly.
    """
    unit = whole_steps(config, cycle)
    return -(-config.save_steps // unit) * unit


def whole_steps(config: OptimizerConfig, cycle: int) -> int:
    """Return the steps between which a mean or the use of a rollout is half done."""
    return math.lcm(config.logging_steps, cycle)


class Resumable:
    """Makes a Hugging Face trainer save and load checkpoints as above; put it first among bases.

    Attributes:
        checkpoints: Where they are; set before training.
    """

    checkpoints: Checkpoints
    args: Any
    state: Any
    model: Any
    accelerator: Any
    control: Any
    is_fsdp_enabled: bool

    def _get_output_dir(self, trial: Any) -> str:
        """Return where a checkpoint is written, before it is complete."""
        return str(self.checkpoints.folder / PARTIAL)

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        super()._save_checkpoint(model, trial)  # type: ignore[misc]
        self.accelerator.wait_for_everyone()  # every process has written its part
        written = Path(self._get_output_dir(trial)) / f"{PREFIX}{self.state.global_step}"
        if self.args.should_save:
            self.checkpoints.keep(written)
        self.accelerator.wait_for_everyone()

    def keep_best(self) -> None:
        """Keep the weights as they are now as the best so far."""
        written = Path(self._get_output_dir(None)) / "best"
        self.save_model(str(written), _internal_call=True)  # type: ignore[attr-defined]
        self.accelerator.wait_for_everyone()
        if self.args.should_save:
            self.checkpoints.keep_best(written, self.state.global_step)
        self.accelerator.wait_for_everyone()

    def result(self) -> tuple[Path, int]:
        """Return the folder of the best weights, or else of the last ones, and their step.

        All processes must call it: shards are gathered.
        """
        last: int = self.state.global_step
        best = self.checkpoints.best()
        if best is not None:
            if step_of(best) != last:
                log(f"result: step {step_of(best)} of {last}, the best evaluated")
            return best, step_of(best)
        written = Path(self._get_output_dir(None)) / "last"
        self.save_model(str(written), _internal_call=True)  # type: ignore[attr-defined]
        self.accelerator.wait_for_everyone()
        return written, last

    def _run_epoch(self, *args: Any, **kwargs: Any) -> None:
        """Train an epoch, unless the run has been at its end when its checkpoint was written."""
        if not self.control.should_training_stop:
            super()._run_epoch(*args, **kwargs)  # type: ignore[misc]

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        """Load the weights of a checkpoint, all of them.

        The trainer of transformers 5.17 ignores names it does not know, and the checkpoint of a
        whole model holds those of the released files: it would resume with the old weights. So it
        would with adapters beside TRL's copies for the KL: of several it loads the copies alone.
        """
        own = self.accelerator.unwrap_model(model or self.model)
        if self.is_fsdp_enabled:
            super()._load_from_checkpoint(resume_from_checkpoint, model)  # type: ignore[misc]
            return
        if hasattr(own, "peft_config"):
            own.load_adapter(resume_from_checkpoint, own.active_adapter, is_trainable=True)
            return
        saved = type(own).from_pretrained(resume_from_checkpoint, dtype=torch.float32)
        own.load_state_dict(saved.state_dict(), strict=True)


class StopAtCheckpoint(TrainerCallback):  # type: ignore[misc]
    """Ends a run that was asked to stop at the next step at which it can go on exactly.

    A signal may reach processes in different steps: they agree.

    Args:
        unit: Steps between which a mean or the use of a rollout is half done.
    """

    def __init__(self, unit: int) -> None:
        self.unit = unit

    def on_train_begin(self, args: Any, state: Any, control: Any, **__: Any) -> None:
        """Save, log and evaluate as often as is set now; do not go on after the last step.

        A run that goes on has the steps between them from its checkpoint.
        """
        state.compute_steps(args, state.max_steps)
        if state.global_step >= state.max_steps:
            control.should_training_stop = True

    def on_step_end(self, _: Any, state: Any, control: Any, **__: Any) -> None:
        """Save and stop, if it was asked for."""
        if state.global_step % self.unit:
            return
        number = max(all_gather_object(stopping.requested() or 0))
        if number:
            stopping.request(number)
            control.should_save = control.should_training_stop = True
            log(f"asked to stop: saving step {state.global_step}")


def resume_point(checkpoints: Checkpoints) -> Path | None:
    """Return the checkpoint to go on from, and say so; what came after it is forgotten."""
    newest = checkpoints.newest()
    if RANK == 0:
        shutil.rmtree(checkpoints.folder / PARTIAL, ignore_errors=True)  # half written
        checkpoints.forget_tables_after(step_of(newest) if newest else 0)
        checkpoints.forget_best_after(step_of(newest) if newest else 0)
    if newest is None:
        return None
    log(f"going on after step {step_of(newest)}, from {os.path.relpath(newest)}")
    return newest


def about(
    point: Path | None, run: Mapping[str, Any], code: str, changes: list[str]
) -> dict[str, Any]:
    """Return what the next checkpoints remember; see `Checkpoints`.

    A change of the code does not start training anew: it may be what a crashed run was waiting
    for. It is said, and recorded in the model's manifest.

    Args:
        point: The checkpoint to go on from, or None.
        run: What tells the run from others.
        code: Hash of the code that trains from now on.
        changes: What has changed of the configuration since the checkpoint.
    """
    before = read_json(point / MARKER) if point else {}
    codes = before.get("codes", [])
    if point and codes[-1:] != [code]:
        log(f"warning: the code has changed since; delete {os.path.relpath(point)} to start anew")
    codes = codes if codes[-1:] == [code] else [*codes, code]
    return {"run": run, "codes": codes, "changes": [*before.get("changes", []), *changes]}
