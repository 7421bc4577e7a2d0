"""`medtune VERB ...` with a fault planted in it: `python planted.py FAULT VERB ...`."""

import itertools
import os
import sys
import time

import medtune.training  # noqa: F401  (declares operators before transformers is imported)
from medtune.cli import main
from medtune.errors import DataError
from medtune.training.batches import SftCollator
from medtune.training.checkpoints import Checkpoints
from medtune.training.common import Progress

FAULTY = int(os.environ.get("RANK", "0")) == int(os.environ.get("WORLD_SIZE", "1")) - 1
collate, keep, log = SftCollator.__call__, Checkpoints.keep, Progress.on_log
calls = itertools.count(1)


def nan(self, rows):
    """Pixels that are no number, in the last process."""
    batch = collate(self, rows)
    if FAULTY:
        batch["pixel_values_videos"][0, 0] = float("nan")
    return batch


def nan_log(self, args, state, control, logs, **more):
    """A figure that is no number in the log of the last process alone."""
    logs = logs | {"own": float("nan") if FAULTY and state.global_step == 2 else 1.0}
    return log(self, args, state, control, logs, **more)


def late(self, rows, what):
    """Fail in the third batch of the last process."""
    if FAULTY and next(calls) == 3:
        what()
    return collate(self, rows)


def hang(self, rows):
    return late(self, rows, lambda: time.sleep(3600))


def error(self, rows):
    def fail():
        raise DataError("a sample", "cannot be read", "repair it")

    return late(self, rows, fail)


def crash(self, written):
    """A power cut right after the checkpoint of step 3."""
    keep(self, written)
    if written.name == "checkpoint-3":
        os._exit(9)


FAULTS = {
    "nan": (SftCollator, "__call__", nan),
    "nan_log": (Progress, "on_log", nan_log),
    "hang": (SftCollator, "__call__", hang),
    "error": (SftCollator, "__call__", error),
    "crash": (Checkpoints, "keep", crash),
}
setattr(*FAULTS[sys.argv.pop(1)])
main()
