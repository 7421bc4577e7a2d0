"""Best, median and worst cases, drawn on the frames the model saw."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from medtune.geometry import Box
from medtune.media.overlay import TRUTH_COLOUR, data_uri, filmstrip
from medtune.models.dialect import DIALECTS
from medtune.models.inputs import read_frames
from medtune.reporting.plots import COLOURS
from medtune.schema import Sample
from medtune.tasks.base import Task


class GalleryCase(BaseModel):
    """One case with its picture, scores and answers."""

    id: str
    label: str
    picture: str
    frames: list[int]
    lines: list[str]


def choose(rows: Sequence[Mapping[str, Any]], count: int) -> list[tuple[str, str]]:
    """Return (label, id) of the best, median and worst cases by IoU, then reward.

    A tumour-free case counts as IoU 1 if the answer says so, else as 0.
    """

    def quality(row: Mapping[str, Any]) -> float:
        found: float = row["no_tumor_correct"] if row["iou"] is None else row["iou"]
        return found

    ranked = sorted(rows, key=lambda row: (-quality(row), -row["reward"], row["id"]))
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


def _describe(box: Box | None, peak: int | None, ratio: float) -> str:
    """Return truth or answer as text, in pixels and frames of the video for every family."""
    if box is None:
        return "no tumour"
    shown = ", ".join(f"{edge:.4g}" for edge in box)
    return f"box [{shown}], peak slice {peak}, ratio {ratio:.2g}"


def build_case(
    label: str, sample: Sample, rows: Sequence[Mapping[str, Any]], task: Task, dataset: Path
) -> GalleryCase:
    """Return the picture and text of one case; boxes are in pixels and frames of the video.

    Args:
        label: best, median or worst.
        sample: The case.
        rows: Scored greedy answers of the models shown, in drawing order.
        task: Parses the answers.
        dataset: Folder of the data set.
    """
    truth = sample.truth["bbox_3d"]
    box: Box | None = tuple(truth) if truth else None
    boxes = [(TRUTH_COLOUR, box)]
    lines = [f"truth: {_describe(box, sample.truth['peak_slice'], sample.truth['tumor_ratio'])}"]
    for row in rows:
        judged = task.judge(row["text"], sample, DIALECTS[row["family"]])
        answer, said = judged.answer, f"invalid: {judged.reason}"
        if answer is not None:
            said = _describe(answer.box, answer.peak, answer.ratio)
        boxes.append((COLOURS[row["model"]], answer.box if answer else None))
        iou = "" if row["iou"] is None else f"IoU {row['iou']:.2f}, "
        lines.append(f"{row['model']}: {said} ({iou}reward {row['reward']:.2f})")
        lines.append(f"{row['model']} wrote: {row['text']}")
    shown = _frames_to_show(sample)
    frames = read_frames(sample.media[0], dataset)
    return GalleryCase(
        id=f"{sample.source}/{sample.case_id}",
        label=label,
        picture=data_uri(filmstrip(frames, boxes, shown)),
        frames=shown,
        lines=lines,
    )
