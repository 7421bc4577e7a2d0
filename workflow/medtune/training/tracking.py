"""Figures and rollouts to Weights & Biases, if the environment asks for it.

It is always offline: what is tracked lies in `wandb/` beside the model folder, and leaves the
machine only when somebody sends it (`wandb sync`).
"""

import importlib.util
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from medtune.errors import ConfigError

VARIABLE = "MEDTUNE_TRACKER"


def tracker(output: Path) -> str:
    """Return the name of the tracker, or "none", and prepare it.

    Args:
        output: Model folder that will be written.

    Raises:
        ConfigError: There is no such tracker, or it is not installed.
    """
    name = os.environ.get(VARIABLE, "none")
    if name not in ("none", "wandb"):
        raise ConfigError(VARIABLE, f"there is no tracker {name}", "unset it, or set it to wandb")
    if name == "wandb":
        if importlib.util.find_spec("wandb") is None:
            raise ConfigError(VARIABLE, "wandb is not installed", "pip install 'medtune[wandb]'")
        os.environ["WANDB_MODE"] = "offline"
        os.environ["WANDB_DIR"] = str(output.parent)
        os.environ["WANDB_NAME"] = output.name
        os.environ.setdefault("WANDB_PROJECT", output.parent.name)
    return name


def track_completions(rows: Sequence[Mapping[str, Any]]) -> None:
    """Show a table of completions in the tracker, if one runs."""
    if os.environ.get(VARIABLE) != "wandb":
        return
    import wandb

    if wandb.run is not None:
        table = wandb.Table(list(rows[0]), [list(row.values()) for row in rows])
        wandb.log({"completions": table}, commit=False)
