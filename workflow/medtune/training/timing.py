"""Where the time of a training goes, and the host memory it takes, step by step.

Both differ between runs, so they are kept out of the model folder, in `<model>.timing.jsonl`.
"""

import json
import resource
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from pathlib import Path
from typing import Any

import torch
from transformers import TrainerCallback

from medtune.console import RANK
from medtune.training.together import everyones

# What the trainers' methods do. Log-probabilities of the update are part of it; those computed
# without a gradient are the old ones and the reference's.
METHODS = {
    "get_batch_samples": "data",
    "_encode_prompt": "data",
    "_generate": "rollout",
    "_calculate_rewards": "reward",
    "_get_per_token_logps_and_entropies": "logps",
    "training_step": "update",
    "evaluate": "evaluation",
    "_save_checkpoint": "saving",
}


class Phases:
    """Seconds by phase; what happens inside another phase counts for the inner one alone."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = defaultdict(float)
        self.open = ["other"]
        self.since = time.monotonic()

    def book(self) -> None:
        """Count the time since the last call for the phase that is open."""
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        now = time.monotonic()
        self.seconds[self.open[-1]] += now - self.since
        self.since = now

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
    """Appends to a file of JSON lines, every `log_every` steps and at the end of the training.

    A line holds `step`, `seconds` by phase since the line before, and `host_mb`, the largest
    resident memory so far in MiB: of each, the largest of all processes.

    Args:
        trainer: Its methods are timed from now on.
        file: The file.
        every: Steps between lines.
    """

    def __init__(self, trainer: Any, file: Path, every: int) -> None:
        self.phases, self.file, self.every = Phases(), file, every
        for method, name in METHODS.items():
            if hasattr(trainer, method):
                setattr(trainer, method, self.phases.timed(getattr(trainer, method), name))

    def on_train_begin(self, _: Any, state: Any, *__: Any, **___: Any) -> None:
        """Begin the file anew, unless the run goes on."""
        if RANK == 0 and state.global_step == 0:
            self.file.unlink(missing_ok=True)

    def on_step_end(self, _: Any, state: Any, *__: Any, **___: Any) -> None:
        """Write a line, if it is time."""
        if state.global_step % self.every == 0:
            self.write(state.global_step)

    def on_train_end(self, _: Any, state: Any, *__: Any, **___: Any) -> None:
        """Write what came after the last line."""
        self.write(state.global_step)

    def write(self, step: int) -> None:
        """Write a line."""
        self.phases.book()
        memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        found = everyones((dict(self.phases.seconds), memory))
        self.phases.seconds.clear()
        names = sorted({name for seconds, _ in found for name in seconds})
        largest = {n: max(seconds.get(n, 0.0) for seconds, _ in found) for n in names}
        line = {
            "step": step,
            "seconds": {name: round(value, 3) for name, value in largest.items()},
            "host_mb": round(max(memory for _, memory in found), 1),
        }
        if RANK == 0:
            self.file.parent.mkdir(parents=True, exist_ok=True)
            with self.file.open("a", encoding="utf-8") as lines:
                lines.write(json.dumps(line) + "\n")
