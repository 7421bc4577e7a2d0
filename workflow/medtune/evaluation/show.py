"""Truth and answers of one case of an experiment, drawn on what the models saw."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from medtune.errors import DataError
from medtune.evaluation.predictions import read_predictions
from medtune.media.overlay import TRUTH_COLOUR, filmstrip
from medtune.models.inputs import read_frames
from medtune.schema import Sample, iterate, load_split

COLOURS = ("#c2a83e", "#e07b39", "#3a7bd5", "#b45ad6", "#d64545", "#4fb8c4")


def find_sample(results: Path, name: str) -> Sample:
    """Return the sample of the test split with an id, or of a case with this name.

    Raises:
        DataError: There is none, or more than one.
    """
    test = list(iterate(load_split(results / "datasets", "test")))
    found = [one for one in test if name in (one.id, one.case_id, f"{one.source}/{one.case_id}")]
    if len(found) != 1:
        raise DataError(
            name,
            f"names {len(found)} samples of the test split of {results}",
            f"give an id such as {test[0].id}",
        )
    return found[0]


def greedy_answers(results: Path, sample: Sample) -> dict[str, dict[str, Any]]:
    """Return the row of each model's greedy answer to a sample, by the model's name.

    Raises:
        DataError: No model has answered.
    """
    folders = sorted(path for path in (results / "eval/predictions").glob("*") if path.is_dir())
    found = {
        model: row
        for model, rows in read_predictions(folders).items()
        for row in rows
        if row["id"] == sample.id and row["mode"] == "greedy"
    }
    if not found:
        raise DataError(sample.id, "no model has answered it", "run `snakemake evaluate`")
    return found


def draw_case(
    sample: Sample, answers: Sequence[Mapping[str, Any]], root: Path
) -> tuple[Any, list[int]]:
    """Return a picture of truth and answers, and the frames that it shows, left to right.

    Shown are the frames where the target, or what an answer says, is largest.

    Args:
        sample: The sample.
        answers: Rows of predictions; drawn in `COLOURS` by their order, the truth in green.
        root: Folder of the data set.
    """
    truth = sample.truth
    said = [json.loads(row["answer"]) if row["answer"] else {} for row in answers]
    boxes = [(TRUTH_COLOUR, truth["bbox_3d"])]
    boxes += [(COLOURS[n % len(COLOURS)], one.get("box")) for n, one in enumerate(said)]
    peaks = {truth["peak_slice"], *(one.get("peak") for one in said)} - {None}
    shown = sorted(peaks) or [sample.media[0].frames // 2]
    frames = read_frames(sample.media[0], root)
    return filmstrip(frames, boxes, shown), shown
