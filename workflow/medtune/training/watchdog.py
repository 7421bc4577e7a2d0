"""Ends a training that hangs, with a record of where every thread stands."""

import faulthandler
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from transformers import TrainerCallback


class Watchdog(TrainerCallback):  # type: ignore[misc]
    """Dumps all stacks to standard error and exits with 1 when no event came for some time.

    It runs in a thread without Python's lock, and so also while a process waits for another one.

    Args:
        minutes: Longest time between two events: steps, evaluated batches, saved checkpoints.
    """

    def __init__(self, minutes: float) -> None:
        self.seconds = 60 * minutes

    def alive(self, *_: Any, **__: Any) -> None:
        """Start to wait anew."""
        faulthandler.dump_traceback_later(self.seconds, exit=True, file=2)

    on_train_begin = on_step_begin = on_substep_end = on_step_end = alive
    on_log = on_prediction_step = on_evaluate = on_save = on_train_end = alive


@contextmanager
def watched(trainer: Any, minutes: float) -> Iterator[None]:
    """Watch what a trainer does inside the block."""
    watchdog = Watchdog(minutes)
    trainer.add_callback(watchdog)
    watchdog.alive()
    try:
        yield
    finally:
        faulthandler.cancel_dump_traceback_later()
