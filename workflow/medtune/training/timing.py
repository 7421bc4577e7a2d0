"""Where the time of a training goes, and the memory and energy it takes, step by step.

All differ between runs, so they are kept out of the model folder, in `<model>.timing.jsonl`.
"""

import json
import resource
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import wraps
from pathlib import Path
from typing import Any

import torch
from transformers import TrainerCallback

from medtune.runtime.console import RANK
from medtune.training.distributed import all_gather_object
from medtune.training.hardware import Meter, machines, meters

MIB = 2**20
# What the trainers' methods do. Log-probabilities of the update are part of it; those computed
# without a gradient are the old ones and the reference's.
METHODS = {
    "get_batch_samples": "data",
    "_encode_prompt": "data",
    "_generate": "rollout",
    "_load_engine": "sync",
    "_calculate_rewards": "reward",
    "_get_per_token_logps_and_entropies": "logps",
    "training_step": "update",
    "evaluate": "evaluation",
    "_save_checkpoint": "saving",
}


class Phases:
    """Seconds by phase; what happens inside another phase counts for the inner one alone.

    Args:
        meters: By name, what counts energy.

    Attributes:
        seconds: By phase.
        joules: By meter and phase.
    """

    def __init__(self, meters: Mapping[str, Meter] | None = None) -> None:
        self.meters = meters or {}
        self.seconds: dict[str, float] = defaultdict(float)
        self.joules: dict[str, dict[str, float]] = {n: defaultdict(float) for n in self.meters}
        self.open = ["other"]
        self.since = time.monotonic()

    def book(self) -> None:
        """Count time and energy since the last call for the phase that is open."""
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        now = time.monotonic()
        self.seconds[self.open[-1]] += now - self.since
        self.since = now
        for name, meter in self.meters.items():
            self.joules[name][self.open[-1]] += meter.joules()

    def take(self) -> tuple[dict[str, float], dict[str, dict[str, float]]]:
        """Return seconds and joules since the last call."""
        self.book()
        taken = dict(self.seconds), {name: dict(found) for name, found in self.joules.items()}
        for found in (self.seconds, *self.joules.values()):
            found.clear()
        return taken

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Open a phase inside the block."""
        self.book()
        self.open.append(name)
        try:
            yield
        finally:
            self.book()
            self.open.pop()

    def timed(self, method: Callable[..., Any], name: str) -> Callable[..., Any]:
        """Return a method that counts its time for a phase."""

        @wraps(method)
        def run(*args: Any, **kwargs: Any) -> Any:
            within_update = name == "logps" and torch.is_grad_enabled()
            with self.phase("update" if within_update else name):
                return method(*args, **kwargs)

        return run


class Timing(TrainerCallback):  # type: ignore[misc]
    """Appends to a file of JSON lines, every `logging_steps` steps and at the end of the training.

    Where a run begins or goes on, a line holds that step as `begin`, the `machines` and why some
    energy is `not_measured`. The others hold `step`, what has happened since the line before as
    `seconds` by phase (of several processes the largest) and `joules` by `gpu` and `cpu` and phase
    (the sum), and memory in MiB, of the process that has most: `host_mb`, resident, the largest so
    far; with a GPU `gpu_mb` and `gpu_reserved_mb`, the largest since the line before of what
    PyTorch uses and holds.

    Args:
        trainer: Its methods are timed from now on.
        file: The file.
        every: Steps between lines.
    """

    def __init__(self, trainer: Any, file: Path, every: int) -> None:
        found, self.lacking = meters()
        self.phases, self.file, self.every = Phases(found), file, every
        for method, name in METHODS.items():
            if hasattr(trainer, method):
                setattr(trainer, method, self.phases.timed(getattr(trainer, method), name))

    def on_train_begin(self, _: Any, state: Any, *__: Any, **___: Any) -> None:
        """Begin the file anew, unless the run goes on; say on what it runs."""
        if RANK == 0 and state.global_step == 0:
            self.file.unlink(missing_ok=True)
        lacking = {
            name: why for one in all_gather_object(self.lacking) for name, why in one.items()
        }
        about = {"machines": machines(), "not_measured": lacking}
        self._append({"begin": state.global_step} | about)

    def on_step_end(self, _: Any, state: Any, *__: Any, **___: Any) -> None:
        """Write a line, if it is time."""
        if state.global_step % self.every == 0:
            self.write(state.global_step)

    def on_train_end(self, _: Any, state: Any, *__: Any, **___: Any) -> None:
        """Write what came after the last line."""
        self.write(state.global_step)

    def write(self, step: int) -> None:
        """Write a line."""
        found = all_gather_object((*self.phases.take(), memory()))
        line: dict[str, Any] = {"step": step, "seconds": {}, "joules": {}}
        for seconds, joules, _ in found:
            for name, value in seconds.items():
                line["seconds"][name] = max(round(value, 3), line["seconds"].get(name, 0.0))
            for meter, by_phase in joules.items():
                own = line["joules"].setdefault(meter, {})
                for name, value in by_phase.items():
                    own[name] = round(value + own.get(name, 0.0), 3)
        self._append(line | {name: max(one[name] for _, _, one in found) for name in found[0][2]})

    def _append(self, line: Mapping[str, Any]) -> None:
        if RANK == 0:
            self.file.parent.mkdir(parents=True, exist_ok=True)
            with self.file.open("a", encoding="utf-8") as lines:
                lines.write(json.dumps(line) + "\n")


def memory() -> dict[str, float]:
    """Return the memory of this process in MiB; see `Timing`. The GPU's peaks begin anew."""
    found = {"host_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024}
    if torch.cuda.is_available():
        found["gpu_mb"] = torch.cuda.max_memory_allocated() / MIB
        found["gpu_reserved_mb"] = torch.cuda.max_memory_reserved() / MIB
        torch.cuda.reset_peak_memory_stats()
    return {name: round(value, 1) for name, value in found.items()}
