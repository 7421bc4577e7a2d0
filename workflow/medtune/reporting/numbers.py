"""Estimates, changes and p-values as text."""

from typing import Any

NOT_RUN = "not run"
UNDEFINED = "undefined"  # it was run, and there is no such figure, as a test over one patient


def show(estimate: Any, digits: int = 3, signed: bool = False) -> str:
    """Return an estimate as `mean [low, high]`; None is undefined: it applies to no case."""
    if estimate is None:
        return UNDEFINED
    form = f"{'+' if signed else ''}.{digits}f"
    mean = f"{estimate['mean']:{form}}"
    if estimate["low"] is None:
        return f"{mean} (one patient)"
    return f"{mean} [{estimate['low']:{form}}, {estimate['high']:{form}}]"


def p_text(change: Any, key: str = "p_holm", digits: int = 2) -> str:
    """Return a p-value; where the permutations could show no smaller one, that it is a limit."""
    if change is None or change[key] is None:
        return UNDEFINED
    limit = "≤ " if change.get("p_is_limit") and change[key] < 1 else ""
    return f"{limit}{change[key]:.{digits}g}"
