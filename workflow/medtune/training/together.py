"""Decisions that the processes of a training take alike.

One that went its own way would leave the others waiting for it.
"""

from collections.abc import Sequence
from typing import TypeVar

from medtune.console import PROCESSES

T = TypeVar("T")


def everyones(value: T) -> Sequence[T]:
    """Return the values of all processes, by rank; all of them must call it."""
    if PROCESSES == 1:
        return [value]
    from accelerate.utils import gather_object

    found: list[T] = gather_object([value])
    return found
