"""Progress and messages: a live bar on a terminal, plain lines in a log."""

import os
import sys
import time
from collections import deque
from collections.abc import Iterable, Iterator, Sized
from typing import TypeVar

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

# Of the processes of one training, which torchrun numbers, only the first speaks.
RANK = int(os.environ.get("RANK", "0"))
PROCESSES = int(os.environ.get("WORLD_SIZE", "1"))
console = Console(stderr=True, highlight=False, soft_wrap=True, quiet=RANK > 0)
LOG_EVERY_SECONDS = 10.0
# The time left follows the pace of these last log lines: a machine that has got busy is slower.
PACE_OF_LINES = 6
T = TypeVar("T")


def log(message: str) -> None:
    """Print one line of information."""
    console.print(message, markup=False)


def duration(seconds: float) -> str:
    """Return a time as people say it: 7 h 12 min, 3 min 20 s, 45 s."""
    whole = round(seconds)
    hours, minutes = divmod(whole // 60, 60)
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {whole % 60} s" if minutes else f"{whole} s"


class ProgressLine:
    """Progress of one long task; use as a context manager and call `advance`.

    On a terminal it is a bar with the time left; elsewhere a plain line at most every ten
    seconds and one at the end, so that batch logs stay readable.
    """

    def __init__(self, title: str, total: int) -> None:
        self.title, self.total, self.done = title, total, 0
        # (time, steps done) of the start and the last lines
        self.marks = deque([(time.monotonic(), 0)], maxlen=PACE_OF_LINES)
        self.bar: Progress | None = None
        if sys.stderr.isatty():
            columns = (
                TextColumn("{task.description}"),
                BarColumn(),
                MofNCompleteColumn(),
                TimeRemainingColumn(),
                TextColumn("{task.fields[note]}"),
            )
            self.bar = Progress(*columns, console=console)
            self.task = self.bar.add_task(title, total=total, note="")

    def __enter__(self) -> "ProgressLine":
        if self.bar:
            self.bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self.bar:
            self.bar.stop()

    def resume(self, done: int) -> None:
        """Start at what an earlier run has done, which says nothing of the present pace."""
        self.done = done
        self.marks[0] = (time.monotonic(), done)
        if self.bar:
            self.bar.update(self.task, completed=done)

    def advance(self, steps: int = 1, note: str = "") -> None:
        """Report `steps` more done; `note` is a short text such as the current loss."""
        self.done += steps
        if self.bar:
            self.bar.update(self.task, completed=self.done, note=note)
            return
        now = time.monotonic()
        if now - self.marks[-1][0] >= LOG_EVERY_SECONDS or self.done == self.total:
            start, done = self.marks[0]
            left = (now - start) / max(self.done - done, 1) * (self.total - self.done)
            self.marks.append((now, self.done))
            note = f"  {note}" if note else ""
            log(f"{self.title}: {self.done}/{self.total}, about {duration(left)} left{note}")


def track(items: Iterable[T], title: str, total: int | None = None) -> Iterator[T]:
    """Yield `items` while showing progress."""
    if total is None:
        items = items if isinstance(items, Sized) else list(items)
        total = len(items)
    with ProgressLine(title, total) as line:
        for item in items:
            yield item
            line.advance()
