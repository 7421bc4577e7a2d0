"""One case by hand: images in; an answer out in media pixels, source voxels and millimeters."""

import itertools
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from numpy.typing import NDArray

from medtune.config.experiment import Config
from medtune.config.stages import PredictStage, load_stage, stage_json
from medtune.dataset.annotate import make_sample
from medtune.evaluation.predict import Predictor, Question
from medtune.geometry.volume import Geometry
from medtune.media.convert import convert_case
from medtune.media.overlay import filmstrip
from medtune.media.video import decode
from medtune.models.base_reference import model_sha256
from medtune.records.case import Case
from medtune.records.sample import INFER
from medtune.runtime.console import log
from medtune.runtime.errors import DataError
from medtune.runtime.files import atomic_folder, git_commit, write_json
from medtune.sources.check import check_images

ANSWER_COLOR = "#e07b39"


@dataclass(frozen=True)
class CaseAnswer:
    """A model's answer to one case.

    Attributes:
        case: The case.
        geometry: Its frames of reference.
        frames: Decoded frames (t, rows, columns, 3) that the model was shown.
        text: What the model wrote.
        finish: "stop", or "length" where the answer did not end.
        answer: The parsed answer (box, peak and ratio in the media frame), or None.
        reason: Why the text is no valid answer, or None.
        origin: Which model, configuration and code it comes from.
    """

    case: Case
    geometry: Geometry
    frames: NDArray[np.uint8]
    text: str
    finish: str
    answer: Any
    reason: str | None
    origin: Mapping[str, Any]

    def record(self) -> dict[str, Any]:
        """Return the answer as JSON values, in three frames of reference.

        media     box [x1, y1, z1, x2, y2, z2] in pixels and frames of the video, edges, half-open;
                  peak, the frame with the largest area; ratio
        source    of the first image's file, in its own voxel order: box, exact edges; voxels, the
                  box in whole voxels (0-based, half-open); peak, the voxels of that slice
        world_mm  RAS: the box's corners, their least and largest values, its center

        They are null without an answer, as boxes and peaks are where it says that there is none.
        """
        said: dict[str, Any] = {
            "case": self.case.id,
            "images": {name: image.path for name, image in self.case.images.items()},
            "text": self.text,
            "finish": self.finish,
            "valid": self.answer is not None,
            "reason": self.reason,
            **dict.fromkeys(("media", "source", "world_mm")),
            "origin": dict(self.origin),
        }
        if self.answer is not None:
            box, peak = self.answer.box, self.answer.peak
            said["media"] = {
                "size": [*self.geometry.size],
                "frames": self.geometry.frames,
                "box": None if box is None else [*box],
                "peak": peak,
                "ratio": self.answer.ratio,
            }
        if self.answer is not None and self.answer.box is not None:
            said["source"] = self._in_source()
            said["world_mm"] = self._in_world()
        return said

    def _in_source(self) -> dict[str, Any]:
        width, height, _ = self.geometry.lps_shape
        z = self.geometry.frame_to_slice(self.answer.peak)
        plane = self.geometry.lps_to_source((0, 0, z, width, height, z + 1))
        box = self.geometry.media_to_source(self.answer.box)
        return {
            "shape": [*self.geometry.source_shape],
            "box": [round(v, 6) for v in box],
            "voxels": [*self.geometry.source_voxels(box)],
            "peak": [*self.geometry.source_voxels(plane)],
        }

    def _in_world(self) -> dict[str, Any]:
        ends = zip(self.answer.box[:3], self.answer.box[3:], strict=True)
        corners = self.geometry.media_points_to_world(list(itertools.product(*ends)))
        values = {
            "corners": corners,
            "low": corners.min(axis=0),
            "high": corners.max(axis=0),
            "center": corners.mean(axis=0),
        }
        return {name: np.round(value, 4).tolist() for name, value in values.items()}

    def overlay(self) -> Any:
        """Return a picture: first, peak and last frame of the box, or of the video, with the box.

        A box is drawn as the model sees it: in the first tile of a layout.
        """
        box = None if self.answer is None else self.answer.box
        last = len(self.frames) - 1
        shown = {last // 4, last // 2, 3 * last // 4}
        if box is not None:
            shown = {int(box[2]), self.answer.peak, min(int(np.ceil(box[5])) - 1, last)}
        return filmstrip(self.frames, [(ANSWER_COLOR, box)], sorted(shown))

    def mask(self) -> nib.Nifti1Image:
        """Return the box in the grid of the first image: 1 inside, 0 elsewhere (uint8).

        Raises:
            DataError: There is no valid answer.
        """
        if self.answer is None:
            raise DataError(self.case.id, f"has no valid answer: {self.reason}", "read its text")
        values = np.zeros(self.geometry.source_shape, dtype=np.uint8)
        if self.answer.box is not None:
            i1, j1, k1, i2, j2, k2 = self._in_source()["voxels"]
            values[i1:i2, j1:j2, k1:k2] = 1
        return nib.Nifti1Image(values, np.array(self.geometry.affine))

    def write(self, folder: Path) -> None:
        """Write `answer.json`, `overlay.png` and, of a valid answer, `box.nii.gz`, into a folder.

        The folder is replaced as a whole.
        """
        with atomic_folder(folder) as temporary:
            write_json(temporary / "answer.json", self.record())
            self.overlay().save(temporary / "overlay.png")
            if self.answer is not None:
                nib.save(self.mask(), temporary / "box.nii.gz")


def predict_cases(config: Config, model: Path, cases: Iterable[Case]) -> Iterator[CaseAnswer]:
    """Yield a model's greedy answers to cases; it is loaded once, by transformers.

    Images are checked as in `medtune verify`, and shown to the model as in its training.

    Args:
        config: The configuration that the model was trained with.
        model: Model folder, of this experiment or exported.
        cases: See `find_case` and `case_of_images`. Modalities that are not shown help to tell
            brain from background, as they did in training.

    Raises:
        DataError: An image cannot be used.
        ModelError: The folder holds no model of the family.
        VisionError: The model was shown its media in another way in training.
    """
    stage = load_stage(PredictStage, stage_json(config, "predict"))
    here = stage.evaluation.model_copy(update={"engine": "transformers"})  # vLLM starts slowly
    stage = stage.model_copy(update={"evaluation": here})
    origin = {"commit": git_commit(), "config": stage.model_dump(mode="json")}
    predictor: Predictor | None = None
    with tempfile.TemporaryDirectory() as temporary:
        root = Path(temporary)
        for given in cases:
            case = given.model_copy(update=_background(config))
            _check(case, config)
            target = root / case.source
            converted = convert_case(case, config.task, config.media, target)
            sample = make_sample(converted, INFER, config.task, ".")
            if predictor is None:
                predictor = Predictor(stage, model, root, sample)
                origin |= {"model": str(model), "model_sha256": model_sha256(model)}
            question = Question("greedy", sample, sample, (None,))
            (reply,) = predictor.answer([(question, None)], [question])
            judged = predictor.task.judge(reply["text"], sample, predictor.dialect)
            finish = predictor.row(question, 0, reply)["finish"]
            frames, _ = decode(root / sample.media[0].path)
            said = (reply["text"], finish, judged.answer, judged.reason)
            yield CaseAnswer(case, converted.geometry, frames, *said, origin)


def _background(config: Config) -> dict[str, Any]:
    """Return the background of the images that the model was trained with, if all share one."""
    values = {source.background_value for source in config.sources}
    return {"background": values.pop()} if len(values) == 1 else {}


def _check(case: Case, config: Config) -> None:
    """Check the images of a case.

    Raises:
        DataError: One is missing or has an error.
    """
    for finding in check_images(case, config.media.modalities, config.verification):
        if finding.severity == "error":
            raise DataError(
                f"{case.id} ({finding.code})",
                f"{finding.found}, expected {finding.expected}",
                finding.remedy,
            )
        log(f"warning: {case.id} ({finding.code}): {finding.found}")
