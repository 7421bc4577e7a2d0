"""Best, median and worst cases, drawn on the frames the model saw."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from medtune.geometry import Box, Geometry
from medtune.media.overlay import data_uri, filmstrip
from medtune.models.dialect import DIALECTS
from medtune.models.inputs import read_frames
from medtune.reporting.plots import COLOURS
from medtune.schema import Sample
from medtune.tasks.base import Task

TRUTH_COLOUR = "#37c871"


class GalleryCase(BaseModel):
    """One case with its picture, scores and answers."""

    id: str
    label: str
    picture: str
    frames: list[int]
    lines: list[str]


def choose(rows: Sequence[Mapping[str, Any]], count: int) -> list[tuple[str, str]]:
    """Return (label, id) of the best, median and worst cases by IoU, then reward."""
    ranked = sorted(rows, key=lambda r: (r["iou"] is None, -(r["iou"] or 0), -r["reward"], r["id"]))
    each = max(1, count // 3)
    middle = max(0, len(ranked) // 2 - each // 2)
    picks = {
        "best": ranked[:each],
        "median": ranked[middle : middle + each],
        "worst": ranked[-each:],
    }
    chosen: dict[str, str] = {}
    for label, group in picks.items():
        for row in group:
            chosen.setdefault(row["id"], label)
    return [(label, name) for name, label in chosen.items()]


def _frames_to_show(sample: Sample) -> list[int]:
    """Return first, peak and last frame of the target, or three frames of a tumour-free video."""
    last = sample.media[0].frames - 1
    box = sample.truth["bbox_3d"]
    if box is None:
        return sorted({last // 4, last // 2, 3 * last // 4})
    ends = {min(int(box[2]), last), min(max(int(box[5] + 0.999) - 1, 0), last)}
    return sorted(ends | {sample.truth["peak_slice"]})


def build_case(
    label: str, sample: Sample, rows: Sequence[Mapping[str, Any]], task: Task, dataset: Path
) -> GalleryCase:
    """Return the picture and text of one case.

    Args:
        label: best, median or worst.
        sample: The case.
        rows: Scored greedy answers of the models shown, in drawing order.
        task: Parses the answers.
        dataset: Folder of the data set.
    """
    truth = sample.truth["bbox_3d"]
    boxes: list[tuple[str, Box | None]] = [(TRUTH_COLOUR, tuple(truth) if truth else None)]
    geometry = Geometry.model_validate(sample.geometry)
    lines = [f"truth: {task.target(sample.truth, geometry, DIALECTS['qwen2_5_vl'])}"]
    for row in rows:
        judged = task.judge(row["text"], sample, DIALECTS[row["family"]])
        boxes.append((COLOURS[row["model"]], judged.answer.box if judged.answer else None))
        iou = "no tumour" if row["iou"] is None else f"IoU {row['iou']:.2f}"
        invalid = f"; invalid: {judged.reason}" if judged.reason else ""
        lines.append(f"{row['model']}: {iou}, reward {row['reward']:.2f}{invalid}: {row['text']}")
    shown = _frames_to_show(sample)
    frames = read_frames(sample.media[0], dataset)
    return GalleryCase(
        id=f"{sample.source}/{sample.case_id}",
        label=label,
        picture=data_uri(filmstrip(frames, boxes, shown)),
        frames=shown,
        lines=lines,
    )
