"""Requests to stop: at once, or, in training, at the next checkpoint."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)
_delaying = False
_requested: int | None = None


class Stopped(BaseException):
    """The user or the scheduler asked the process to stop; `args[0]` is the signal."""


def _on_signal(number: int, _: object) -> None:
    global _requested
    repeated, _requested = _requested is not None, number
    if (not _delaying and not repeated) or (number == signal.SIGINT and repeated):
        raise Stopped(number)


def install_signal_handlers() -> None:
    """Turn SIGINT (Ctrl-C), SIGTERM and SIGUSR1 (a batch system, before its limit) into `Stopped`.

    An ignored SIGINT stays so: a process in the background keeps on. The others are ignored by the
    shells around a job only, see `rules/common.smk`.
    """
    for number in SIGNALS:
        if number != signal.SIGINT or signal.getsignal(number) != signal.SIG_IGN:
            signal.signal(number, _on_signal)


def requested() -> int | None:
    """Return the signal that asked to stop, or None."""
    return _requested


def request(number: int) -> None:
    """Note that another process of this training was asked to stop."""
    global _requested  # noqa: PLW0603 - see above
    _requested = number


@contextmanager
def delayed() -> Iterator[None]:
    """Let the block look at `requested` and end by itself; raise `Stopped` after it.

    A SIGINT (Ctrl-C) after another request stops at once; a batch system may repeat its own.
    """
    global _delaying  # noqa: PLW0603 - see above
    _delaying = True
    try:
        yield
    finally:
        _delaying = False
    if _requested is not None:
        raise Stopped(_requested)
