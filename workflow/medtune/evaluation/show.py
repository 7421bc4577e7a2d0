"""Truth and answers of one case of an experiment, drawn on what the models saw."""

import difflib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from medtune.config.data import TaskConfig
from medtune.evaluation.predictions import prediction_shards, read_predictions
from medtune.geometry.volume import Box
from medtune.media.overlay import TRUTH_COLOR, filmstrip
from medtune.models.coordinate_format import IMAGE_COORDINATE_FORMATS
from medtune.models.inputs import read_frames
from medtune.records.sample import Sample, iterate, load_split
from medtune.runtime.errors import DataError
from medtune.runtime.files import manifest_of, read_json
from medtune.tasks import get_task
from medtune.tasks.base import Task

COLORS = ("#c2a83e", "#e07b39", "#3a7bd5", "#b45ad6", "#d64545", "#4fb8c4")
FEW = 8  # ids that a message lists


def find_sample(results: Path, name: str) -> Sample:
    """Return the sample of the test split with an id, or of a case with this name.

    Raises:
        DataError: There is none, or more than one.
    """
    test = list(iterate(load_split(results / "datasets", "test")))
    matches = [s for s in test if name in (s.id, s.case_id, f"{s.source}/{s.case_id}")]
    if len(matches) == 1:
        return matches[0]
    ids = [sample.id for sample in matches or test]
    near = ids[:FEW] if matches else difflib.get_close_matches(name, ids, FEW, 0.0)
    raise DataError(
        name,
        f"names {len(matches)} samples of the test split of {results}",
        "give one id: " + ", ".join(near),
    )


def _prediction_folders(results: Path) -> list[Path]:
    return sorted(path for path in (results / "eval/predictions").glob("*") if path.is_dir())


def read_task(results: Path) -> Task:
    """Return the task that the models of an experiment were asked, as it was configured.

    Raises:
        DataError: No model has answered.
    """
    folders = _prediction_folders(results)
    if not folders:
        raise DataError(results, "no model has answered", "run `snakemake evaluate`")
    manifest = read_json(manifest_of(prediction_shards(folders[0])[0]))
    return get_task(TaskConfig.model_validate(manifest["config"]["task"]))


def greedy_answers(results: Path, sample: Sample) -> dict[str, dict[str, Any]]:
    """Return the row of each model's greedy answer to a sample, by the model's name.

    Raises:
        DataError: No model has answered.
    """
    answers = {
        model: row
        for model, rows in read_predictions(_prediction_folders(results)).items()
        for row in rows
        if row["id"] == sample.id and row["mode"] == "greedy"
    }
    if not answers:
        raise DataError(sample.id, "no model has answered it", "run `snakemake evaluate`")
    return answers


def draw_case(
    sample: Sample, answers: Sequence[Mapping[str, Any]], root: Path, task: Task | None = None
) -> tuple[Any, list[int]]:
    """Return a picture of truth and answers, and the frames that it shows, left to right.

    Shown are the frame where the target is largest, and the middle of every box.

    Args:
        sample: The sample.
        answers: Rows of predictions; drawn in `COLORS` by their order, the truth in green.
        root: Folder of the data set.
        task: Reads the answers; None: the sample's, in its default configuration.
    """
    task = task or get_task(TaskConfig(name=_configured_name(sample)))
    media = sample.media[0]
    boxes: list[tuple[str, Box]] = [(TRUTH_COLOR, box) for box in task.truth_shown(sample)[1]]
    for number, row in enumerate(answers):
        answer = task.judge(row["text"], sample, IMAGE_COORDINATE_FORMATS[row["family"]]).answer
        drawn = [] if answer is None else task.answer_shown(answer)[1]
        boxes += [(COLORS[number % len(COLORS)], box) for box in drawn]
    middles = {int((box[2] + box[5]) // 2) for _, box in boxes} | {sample.truth.get("peak_slice")}
    inside = sorted(z for z in middles if z is not None and 0 <= z < media.frames)
    shown = inside or [media.frames // 2]
    return filmstrip(read_frames(media, root), boxes, shown), shown


def _configured_name(sample: Sample) -> Any:
    return "chest_xray" if sample.media[0].kind == "image" else sample.task
