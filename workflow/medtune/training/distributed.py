"""Decisions that the processes of a training take alike.

One that went its own way would leave the others waiting for it.
"""

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from medtune.runtime.console import PROCESSES, RANK

T = TypeVar("T")


def all_gather_object(value: T) -> Sequence[T]:
    """Return the values of all processes, by rank; all of them must call it."""
    if PROCESSES == 1:
        return [value]
    from accelerate.utils import gather_object

    found: list[T] = gather_object([value])
    return found


def broadcast_from_rank0(function: Callable[[], T]) -> T:
    """Return what a function returns in the first process, to all; they must all call it.

    Raises:
        Exception: What the function raised there, in all of them.
    """
    if PROCESSES == 1:
        return function()
    from accelerate.utils import broadcast_object_list

    outcome: list[Any] = [None, None]
    if RANK == 0:
        try:
            outcome[0] = function()
        except Exception as error:  # noqa: BLE001 - whatever it is: the others would wait for ever
            outcome[1] = error
    broadcast_object_list(outcome)
    if outcome[1] is not None:
        raise outcome[1]
    result: T = outcome[0]
    return result
