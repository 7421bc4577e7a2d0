"""What the policy wrote while it was trained: a few groups of the last table of rollouts."""

from itertools import groupby, islice
from pathlib import Path
from typing import Any

from medtune.runtime.files import COMPLETIONS
from medtune.runtime.tables import read_rows

GROUPS = 3
LONGEST = 400


def last_rollouts(model: Path) -> dict[str, Any] | None:
    """Return `step` and the first groups of the newest table of a GRPO model; None without one.

    Each of the `groups` has the `id` of its sample and its `answers`: text (shortened), reward and
    advantage.
    """
    newest = max((model / COMPLETIONS).glob("step-*.parquet"), key=_step, default=None)
    if newest is None:
        return None
    groups = [
        {"id": name, "answers": [_answer(row) for row in rows]}
        for name, rows in islice(groupby(read_rows(newest), lambda row: row["id"]), GROUPS)
    ]
    return {"step": _step(newest), "groups": groups}


def _step(table: Path) -> int:
    return int(table.stem.removeprefix("step-"))


def _answer(row: dict[str, Any]) -> dict[str, str]:
    text = row["text"]
    return {
        "text": text if len(text) <= LONGEST else f"{text[:LONGEST]} …",
        "reward": f"{row['reward']:.3f}",
        "advantage": f"{row['advantage']:+.3f}",
    }
