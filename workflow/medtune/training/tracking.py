"""Figures and rollouts to TensorBoard or Weights & Biases, if the configuration names one.

Offline, they lie beside the model folder and leave the machine only when somebody sends them
(`wandb sync`). Frames and answers are patients' data: `wandb_online` sends them.
"""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from medtune.config.stages import TrackingStage
from medtune.media.overlay import filmstrip
from medtune.media.video import decode
from medtune.orchestration.preflight import check_tracking
from medtune.runtime.console import RANK, log

FRAMES = 4  # of each video in a table
SECONDS = 30  # until a server that does not answer is given up


class Tracker:
    """Tracks nothing; the base of those that do.

    Attributes:
        callbacks: For the trainer: its own integration of the tracker.
    """

    callbacks: Sequence[Any] = ()

    def completions(self, step: int, rows: Sequence[Mapping[str, Any]], root: Path) -> None:
        """Show a table of completions.

        Args:
            step: Optimizer step that learns from them.
            rows: As in a model folder's `completions/`.
            root: Folder of the data set, for the media that `rows` name.
        """

    def close(self) -> None:
        """Write what is left."""


def make_tracker(stage: TrackingStage | None, output: Path, key: str) -> Tracker:
    """Return the tracker of a training; only the first of several processes tracks.

    Args:
        stage: The configuration; None: nothing is tracked.
        output: Model folder that will be written; its name is that of the stage.
        key: Tells configurations apart: a training that goes on goes on with its run.

    Raises:
        ConfigError: See `check_tracking`.
    """
    if stage is None or stage.tracking.report_to == "none" or RANK:
        return Tracker()
    check_tracking(stage.tracking)
    if stage.tracking.report_to == "tensorboard":
        return _TensorBoard(output, key)
    return _Wandb(stage, output, key)


class _TensorBoard(Tracker):
    def __init__(self, output: Path, key: str) -> None:
        from torch.utils.tensorboard import SummaryWriter
        from transformers.integrations import TensorBoardCallback

        folder = output.parent / "tensorboard" / f"{output.name}-{key}"
        self.writer = SummaryWriter(str(folder))
        self.callbacks = [TensorBoardCallback(self.writer)]

    def completions(self, step: int, rows: Sequence[Mapping[str, Any]], root: Path) -> None:
        columns = list(rows[0])
        lines = ["|".join(columns), "|".join("-" for _ in columns)]
        lines += ["|".join(_cell(row[name]) for name in columns) for row in rows]
        self.writer.add_text("completions", "\n".join(lines), step)
        for name, strip in _strips(rows, root).items():
            self.writer.add_image(f"frames/{name}", strip, step, dataformats="HWC")

    def close(self) -> None:
        self.writer.close()


class _Wandb(Tracker):
    def __init__(self, stage: TrackingStage, output: Path, key: str) -> None:
        # Tables with their frames wait there to be sent: not in the user's home.
        for name in ("DATA", "CACHE"):
            os.environ.setdefault(f"WANDB_{name}_DIR", str(output.parent / "wandb"))
        import wandb
        from transformers.integrations import WandbCallback

        config = stage.tracking
        run = {
            "project": config.project,
            "group": stage.experiment,
            "job_type": output.name,
            "name": f"{stage.experiment}-{output.name}",
            "id": f"{output.name}-{key}",
            "resume": "allow",
            "dir": str(output.parent),
            "settings": wandb.Settings(init_timeout=SECONDS),
        }
        mode: Any = os.environ.get("WANDB_MODE") or config.report_to.removeprefix("wandb_")
        try:
            wandb.init(mode=mode, **run)
        except wandb.Error as error:
            if mode != "online":
                raise
            log(f"tracking: offline, since Weights & Biases does not answer ({error})")
            wandb.teardown()  # it would hold the run for its own
            wandb.init(mode="offline", **run)
        self.wandb, self.callbacks = wandb, [WandbCallback()]

    def completions(self, step: int, rows: Sequence[Mapping[str, Any]], root: Path) -> None:
        pictures = {name: self.wandb.Image(it) for name, it in _strips(rows, root).items()}
        lines = [[*row.values(), pictures[row["media"]]] for row in rows]
        table = self.wandb.Table([*rows[0], "frames"], lines)
        self.wandb.log({"completions": table}, commit=False)

    def close(self) -> None:
        self.wandb.finish()


def _cell(value: Any) -> str:
    """Return a value for a cell of a Markdown table."""
    text = f"{value:.3g}" if isinstance(value, float) else str(value)
    return text.replace("|", "\\|").replace("\n", " ")


def _strips(rows: Sequence[Mapping[str, Any]], root: Path) -> dict[str, Any]:
    """Return some frames of every medium side by side (rows, columns, 3), by its path."""
    strips = {}
    for name in sorted({str(row["media"]) for row in rows}):
        frames = _pixels(root / name)
        shown = np.linspace(0, len(frames) - 1, min(FRAMES, len(frames))).round().astype(int)
        strips[name] = np.asarray(filmstrip(frames, [], [int(index) for index in shown]))
    return strips


def _pixels(path: Path) -> Any:
    """Return the frames of a video, or an image as one."""
    if path.suffix == ".mp4":
        return decode(path)[0]
    from PIL import Image

    with Image.open(path) as image:
        return np.asarray(image.convert("RGB"))[None]
