"""Best, median and worst cases of each model, and those in which two models differ most."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from medtune.evaluation.reading import read_answer
from medtune.geometry.volume import Box, Geometry
from medtune.media.overlay import TRUTH_COLOR
from medtune.media.truth import Truth
from medtune.models.inputs import read_frames
from medtune.records.sample import Sample, iterate, load_split
from medtune.reporting.plots import COLORS, OTHER_COLOR
from medtune.reporting.sheets import frames_to_show
from medtune.reporting.strips import Strip, make_strip
from medtune.tasks.base import Task

Rows = Sequence[Mapping[str, Any]]
TRUTH = "truth"
ALL_ALIKE = "no model does better in one case than in another"


class Drawn(BaseModel):
    """A box that is drawn; `box` is in pixels and frames of the video, None if there is none."""

    name: str
    color: str
    box: Box | None


class Answered(BaseModel):
    """What a model said of a case: in words, its IoU, reward and terms, and the text itself."""

    model: str
    said: str
    iou: str
    reward: str
    terms: str
    text: str
    valid: bool


class GalleryCase(BaseModel):
    """One case with its slices, boxes, scores and answers.

    Attributes:
        labels: Why it is shown.
        truth: The truth in words.
        start: The slice that is shown first.
        montage: The slices that are shown beside each other.
    """

    id: str
    labels: list[str]
    truth: str
    start: int
    montage: list[int]
    strip: Strip
    boxes: list[Drawn]
    answers: list[Answered]

    def drawing(self) -> dict[str, Any]:
        """Return what the page's script draws the slices by."""
        shown: dict[str, Any] = self.model_dump(include={"strip", "montage", "boxes"})
        del shown["strip"]["uri"]
        return shown


def rank(row: Mapping[str, Any]) -> float | None:
    """Return the main metric of an answer; None where it does not apply."""
    found: float | None = row["score"] if "score" in row else row["iou"]
    return found


def quality(row: Mapping[str, Any]) -> float:
    """Return the main metric of an answer; for a tumor-free case 1 if it says so, else 0."""
    if "score" in row:
        return float(row["score"] or 0)
    found: float = row["no_tumor_correct"] if row["iou"] is None else row["iou"]
    return found


def choose(rows: Rows, count: int) -> list[tuple[str, str]]:
    """Return (label, id) of a third of `count` each: best, median and worst by IoU, then reward.

    These have a tumor; as many tumor-free cases that are not recognized follow.
    """
    tumors = [row for row in rows if rank(row) is not None]
    alarms = sorted(row["id"] for row in rows if rank(row) is None and not quality(row))
    ranked = sorted(tumors, key=lambda row: (-quality(row), -row["reward"], row["id"]))
    names = [row["id"] for row in ranked]
    each = max(1, count // 3)
    middle = max(0, len(names) // 2 - each // 2)
    picks = {
        "best": names[:each],
        "median": names[middle : middle + each],
        "worst": names[-each:],
        "tumor-free, missed": alarms[:each],
    }
    chosen: dict[str, str] = {}
    for label, group in picks.items():
        for name in group:
            chosen.setdefault(name, label)
    return [(label, name) for name, label in chosen.items()]


def differing(first: Rows, second: Rows, count: int) -> list[tuple[str, str]]:
    """Return (label, id) of the cases whose quality differs most between two models."""
    before = {row["id"]: quality(row) for row in first}
    change = {row["id"]: quality(row) - before[row["id"]] for row in second if row["id"] in before}
    ranked = sorted(change, key=lambda name: (-abs(change[name]), name))[: max(1, count // 3)]
    names = " and ".join(str(rows[0]["model"]) for rows in (first, second))
    return [(f"{names} differ most", name) for name in ranked if change[name]]


def choose_all(models: Mapping[str, Rows], count: int) -> dict[str, list[str]]:
    """Return the labels of all cases to show, by id.

    A model that does equally well in all cases, as an untrained one, has no best and worst. Where
    that leaves no case, as after a training that failed, some are shown all the same.

    Args:
        models: Greedy answers of each model, in the order of training.
        count: Cases per model.
    """
    chosen: dict[str, list[str]] = {}
    for model, rows in models.items():
        if len({quality(row) for row in rows}) > 1:
            for label, name in choose(rows, count):
                chosen.setdefault(name, []).append(f"{model}: {label}")
    if len(models) > 1:
        before, after = list(models.values())[-2:]
        for label, name in differing(before, after, count):
            chosen.setdefault(name, []).append(label)
    if not chosen and models:
        ids = sorted({row["id"] for rows in models.values() for row in rows})
        step = max(1, len(ids) // count)
        chosen = {name: [ALL_ALIKE] for name in ids[::step][:count]}
    return chosen


def _drawn(name: str, color: str, boxes: Sequence[Box]) -> list[Drawn]:
    """Return what is drawn of truth or answer: one box at least, so that the name has a key."""
    return [Drawn(name=name, color=color, box=box) for box in (boxes or (None,))]


def _answered(row: Mapping[str, Any], sample: Sample, task: Task) -> tuple[list[Drawn], Answered]:
    judged = read_answer(task, row, sample)
    said, boxes = f"invalid: {judged.reason}", list[Box]()
    if judged.answer is not None:
        said, boxes = task.answer_shown(judged.answer)
    terms = [(key.removeprefix("term_"), row[key]) for key in row if key.startswith("term_")]
    told = Answered(
        model=row["model"],
        said=said,
        iou="-" if rank(row) is None else f"{rank(row):.3f}",
        reward=f"{row['reward']:.3f}",
        terms=", ".join(f"{name} {value:.2f}" for name, value in terms if value is not None),
        text=row["text"],
        valid=judged.answer is not None,
    )
    color = COLORS.get(row["model"], OTHER_COLOR)
    return _drawn(row["model"], color, boxes), told


def build_case(
    labels: list[str], sample: Sample, rows: Rows, task: Task, dataset: Path
) -> GalleryCase:
    """Return what is shown of one case; boxes are in pixels and frames of the video.

    Args:
        labels: Why it is shown.
        sample: The case.
        rows: Scored greedy answers of the models shown, in drawing order.
        task: Parses the answers.
        dataset: Folder of the data set.
    """
    answers = [_answered(row, sample, task) for row in rows]
    frames = read_frames(sample.media[0], dataset)
    said, boxes = task.truth_shown(sample)
    start, montage, size = _slices(sample, len(frames))
    return GalleryCase(
        id=f"{sample.source}/{sample.case_id}",
        labels=labels,
        truth=said,
        start=start,
        montage=montage,
        strip=make_strip(frames, size),
        boxes=[
            *_drawn(TRUTH, TRUTH_COLOR, boxes),
            *(one for drawn, _ in answers for one in drawn),
        ],
        answers=[told for _, told in answers],
    )


def _slices(sample: Sample, frames: int) -> tuple[int, list[int], tuple[int, int]]:
    """Return the first slice shown, those of the montage, and the size of the part that is shown.

    Of an image there is one.
    """
    media = sample.media[0]
    if media.kind == "image":
        return 0, [0], (media.width, media.height)
    truth, size = Truth.model_validate(sample.truth), Geometry.model_validate(sample.geometry).size
    start = frames // 2 if truth.peak_slice is None else truth.peak_slice
    return start, frames_to_show(truth, frames), size


def gallery(models: Mapping[str, Rows], count: int, task: Task, dataset: Path) -> list[GalleryCase]:
    """Return the cases to show; see `choose_all`."""
    chosen = choose_all(models, count)
    samples = {s.id: s for s in iterate(load_split(dataset, "test")) if s.id in chosen}
    return [
        build_case(
            labels,
            samples[name],
            [row for rows in models.values() for row in rows if row["id"] == name],
            task,
            dataset,
        )
        for name, labels in chosen.items()
    ]
