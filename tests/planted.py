"""`medtune VERB ...` with something planted in it: `python planted.py NAME,... VERB ...`."""

import itertools
import os
import signal
import sys
import time

from accelerate import DistributedType
from accelerate.state import AcceleratorState, PartialState

import medtune.training  # noqa: F401  (declares operators before transformers is imported)
from medtune.cli.main import main
from medtune.runtime.errors import DataError
from medtune.training import strategy
from medtune.training import validation as evaluation
from medtune.training.batches import SftCollator
from medtune.training.checkpoints import Checkpoints
from medtune.training.run import Progress
from medtune.training.vision_cache import VisionFeatures

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


def stop(self, rows):
    return late(self, rows, lambda: os.kill(os.getpid(), signal.SIGTERM))


def kill(self, written):
    """A power cut right after the checkpoint of step 4."""
    keep(self, written)
    if written.name == "checkpoint-4":
        os.kill(os.getpid(), signal.SIGKILL)


def no_room(self, row, parts):
    """Features of the vision tower that the last process alone cannot keep."""
    if not FAULTY:
        remember(self, row, parts)


judge, remember = evaluation.score_all, VisionFeatures.keep


def disagree(terms, judged):
    """Rewards that fall from evaluation to evaluation, and rise in the last process alone."""
    step = next(calls)
    reward = step / 100 if FAULTY else 1 / step
    return [(reward, parts) for _, parts in judge(terms, judged)]


made = AcceleratorState.__init__


def fsdp2(self, *args, fsdp_plugin=None, **kwargs):
    """FSDP2 on CPUs: accelerate runs it for GPUs only, though torch shards on CPUs too."""
    made(self, *args, fsdp_plugin=fsdp_plugin, **kwargs)
    if fsdp_plugin is not None:
        self.distributed_type = DistributedType.FSDP
        self.fsdp_plugin = fsdp_plugin
        PartialState._shared_state["distributed_type"] = DistributedType.FSDP


PLANTS = {
    "fsdp2": (AcceleratorState, "__init__", fsdp2),
    "bare_head": (strategy, "_gather_head", lambda *_: None),
    "unrefused": (strategy, "_refuse_what_fails", lambda *_: None),
    "nan": (SftCollator, "__call__", nan),
    "nan_log": (Progress, "on_log", nan_log),
    "hang": (SftCollator, "__call__", hang),
    "error": (SftCollator, "__call__", error),
    "no_room": (VisionFeatures, "keep", no_room),
    "disagree": (evaluation, "score_all", disagree),
    "stop": (SftCollator, "__call__", stop),
    "kill": (Checkpoints, "keep", kill),
}
for name in sys.argv.pop(1).split(","):
    setattr(*PLANTS[name])
    strategy.GPUS |= name == "fsdp2"  # or it would be refused
main()
