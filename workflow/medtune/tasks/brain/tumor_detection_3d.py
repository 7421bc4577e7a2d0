"""Find a tumor in a brain MRI: its 3-D box, its largest slice, its share of the brain."""

import hashlib
import json
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import median
from typing import Any

from medtune.config.data import TaskConfig
from medtune.geometry.volume import Box, Geometry
from medtune.media.truth import Truth
from medtune.models.coordinate_format import PIXELS, CoordinateFormat
from medtune.records.sample import Sample
from medtune.rewards.base import Judged, Term, weighted
from medtune.rewards.terms import THINK, thought
from medtune.tasks.base import Center, InvalidAnswerError, Rendered
from medtune.tasks.brain.tumor_baselines import Claims, baselines, constant_baseline
from medtune.tasks.brain.tumor_metrics import (
    centers,
    error_hypotheses,
    majority_vote,
    measure,
    shown,
    strata,
)
from medtune.tasks.brain.tumor_rewards import PRESETS
from medtune.tasks.lenient import after_reasoning, canonical, objects

REGION_NAMES = {"WT": "whole tumor", "TC": "tumor core", "ET": "enhancing tumor"}
MODALITY_NAMES = {"t1c": "T1 with contrast", "t1n": "T1", "t2w": "T2", "t2f": "FLAIR"}
LAYOUT_PHRASES = {
    "row": "Each frame shows, from left to right, {}; give coordinates in the first picture.",
    "grid": "Each frame shows, in two rows, {}; give coordinates in the first picture.",
    "rgb": "Red, green and blue show {}.",
    "single": "The images are {}.",
    "grid with gaps": "Each frame shows {}, and black elsewhere; "
    "give coordinates in the first picture.",
}
GRID_PLACES = ("top left", "top right", "bottom left", "bottom right")
OPENINGS = (
    "The video shows the axial slices of a brain MRI, lowest first, one per frame.",
    "This is a brain MRI as a video: one axial slice per frame, going upwards.",
    "Each frame of this brain MRI video is an axial slice, from bottom to top.",
    "You see a brain MRI, its axial slices as the frames of a video, from the lowest upwards.",
)
SIZE = "There are {} frames of {} x {} pixels."
REQUESTS = ("Locate the {}.", "Find the {}.", "Where is the {}?", "Mark the {}.")
# The schema holds names and no numbers: models copy numbers from examples.
SCHEMA = (
    'Answer with JSON {"bbox_3d": [x1, y1, z1, x2, y2, z2], "peak_slice": z, "tumor_ratio": r}: '
    "its half-open box, the frame where its area is largest, and its share of the brain volume. "
    "Coordinates and frames count from 0. If there is none: null, null and 0."
)
THINKING = "Reason in <think></think> first, then put the JSON into <answer></answer>."
KEYS = {"bbox_3d", "peak_slice", "tumor_ratio"}


def _layout_phrase(geometry: Geometry, names: Sequence[str]) -> str:
    """Return which modality is shown in which part of a frame."""
    layout = geometry.layout
    if layout == "grid" and len(names) < len(GRID_PLACES):
        layout = "grid with gaps"
        names = [f"{name} ({where})" for name, where in zip(names, GRID_PLACES, strict=False)]
    return LAYOUT_PHRASES[layout].format(", ".join(names))


@dataclass(frozen=True)
class Answer:
    """A valid answer, in the media frame; box and peak are both None for "no tumor"."""

    box: Box | None
    peak: int | None
    ratio: float


@dataclass(frozen=True)
class TumorDetection3D:
    """The task `tumor_detection_3d`; see `medtune.tasks.base.Task` for the methods."""

    config: TaskConfig
    name: str = "tumor_detection_3d"
    main: str = "iou"
    read_leniently: tuple[str, ...] = ("iou",)

    @property
    def answer_format(self) -> str:
        """What an answer is: the question's own words, and the target they are about."""
        thinking = f" {THINKING}" if self.config.chain_of_thought else ""
        return f"It locates the {REGION_NAMES[self.config.region]}. {SCHEMA}{thinking}"

    def question(self, sample_id: str, geometry: Geometry, modalities: list[str]) -> str:
        """Return the question; its wording derives from the sample id."""
        digest = hashlib.sha256(sample_id.encode()).digest()
        parts = [
            OPENINGS[digest[0] % len(OPENINGS)],
            SIZE.format(geometry.frames, *geometry.frame_size),
            _layout_phrase(geometry, [MODALITY_NAMES.get(name, name) for name in modalities]),
            REQUESTS[digest[1] % len(REQUESTS)].format(REGION_NAMES[self.config.region]),
            SCHEMA,
        ]
        return " ".join(parts + [THINKING] * self.config.chain_of_thought)

    def prompt(self, sample: Sample, dialect: CoordinateFormat) -> str:
        """Return the question with the coordinate convention of a model family."""
        geometry = Geometry.model_validate(sample.geometry)
        return f"{sample.prompt} {dialect.convention(geometry)}"

    def example(self, sample: Sample) -> str:
        """Return the question about a video of a sample's sizes."""
        geometry = Geometry.model_validate(sample.geometry)
        return self.question("example", geometry, sample.meta["modalities"])

    def render_history(self, sample: Sample, dialect: CoordinateFormat) -> Sample:
        """Return a sample as it is: what was said before holds no coordinates."""
        return sample

    def _gold(self, sample: Sample, dialect: CoordinateFormat) -> dict[str, Any]:
        truth, geometry = sample.truth, Geometry.model_validate(sample.geometry)
        box = truth["bbox_3d"]
        return {
            "bbox_3d": None if box is None else dialect.encode(tuple(box), geometry),
            "peak_slice": truth["peak_slice"],
            "tumor_ratio": _rounded_ratio(truth["tumor_ratio"]),
        }

    def target(self, sample: Sample, dialect: CoordinateFormat) -> str:
        """Return the gold answer as a model family writes it."""
        truth, geometry = sample.truth, Geometry.model_validate(sample.geometry)
        text = json.dumps(self._gold(sample, dialect))
        if not self.config.chain_of_thought:
            return text
        return f"<think>{self._thought(truth, geometry)}</think><answer>{text}</answer>"

    def sought(self, sample: Sample) -> tuple[str, list[dict[str, Any]]] | None:
        """Return the region and its answer; None without a tumor: the published rewards fail."""
        if sample.truth["bbox_3d"] is None:
            return None
        return REGION_NAMES[self.config.region], [self._gold(sample, PIXELS)]

    def _thought(self, truth: dict[str, Any], geometry: Geometry) -> str:
        name = REGION_NAMES[self.config.region]
        if truth["bbox_3d"] is None:
            return f"This video shows a brain MRI without {name}."
        box = tuple(truth["bbox_3d"])
        first, last = math.floor(box[2]), math.ceil(box[5]) - 1
        side = geometry.side(box)
        where = "in the midline" if side == "midline" else f"on the patient's {side}"
        return (
            f"This video shows a brain MRI with {name} {where}, from frame {first} to {last}, "
            f"largest in frame {truth['peak_slice']}."
        )

    def parse(
        self, text: str, geometry: Geometry, dialect: CoordinateFormat, listed: bool = False
    ) -> Answer:
        """Return the answer that a text states.

        Args:
            text: What the model wrote.
            geometry: The sample's.
            dialect: How the model family writes coordinates.
            listed: Read the form of the published rewards: the object in a list of one.

        Raises:
            InvalidAnswerError: Anything but one JSON object of exactly the three keys with finite
                numbers (no bools, no strings), a box that is ordered and inside the first tile,
                a frame that exists and a ratio in 0..1.
        """
        body = text.strip()
        if self.config.chain_of_thought:
            if thought(body) is None:
                raise InvalidAnswerError("not of the form <think>...</think><answer>...</answer>")
            match = THINK.fullmatch(body)
            assert match is not None
            body = match[2]
        value = _strict_object(body, listed)
        ratio = value["tumor_ratio"]
        if not _is_number(ratio) or not 0 <= ratio <= 1:
            raise InvalidAnswerError(f"tumor_ratio is {ratio!r}, not a number in 0..1")
        box, peak = value["bbox_3d"], value["peak_slice"]
        if box is None and peak is None:
            if ratio != 0:
                raise InvalidAnswerError("tumor_ratio must be 0 without a box")
            return Answer(None, None, 0.0)
        if not isinstance(peak, int) or isinstance(peak, bool) or not 0 <= peak < geometry.frames:
            raise InvalidAnswerError(f"peak_slice is {peak!r}, not a frame of the video")
        return Answer(_strict_box(box, geometry, dialect), peak, float(ratio))

    def judge(self, text: str, sample: Sample, dialect: CoordinateFormat) -> Judged:
        """Parse a text strictly and put it in front of the sample's truth."""
        geometry = Geometry.model_validate(sample.geometry)
        try:
            return Judged(text, self.parse(text, geometry, dialect), None, sample)
        except InvalidAnswerError as error:
            reason = str(error)
        try:
            listed = self.parse(text, geometry, dialect, listed=True)
        except InvalidAnswerError:
            listed = None
        return Judged(text, None, reason, sample, listed)

    def judge_leniently(self, text: str, sample: Sample, dialect: CoordinateFormat) -> Judged:
        """Return the one answer that a text states if its form is forgiven, else the strict one."""
        plain, found = self.direct(), []
        for value in objects(after_reasoning(text)):
            body = canonical(value, KEYS)
            judged = plain.judge(body, sample, dialect) if body else None
            if judged and judged.answer is not None and judged.answer not in found:
                found.append(judged.answer)
        if len(found) == 1:
            return Judged(text, found[0], None, sample)
        return self.judge(text, sample, dialect)

    def direct(self) -> "TumorDetection3D":
        """Return the task without the reasoning form."""
        return replace(self, config=self.config.model_copy(update={"chain_of_thought": False}))

    def terms(self, preset: str, weights: dict[str, float], own: Sequence[Term] = ()) -> list[Term]:
        """Return the terms of a preset (see `medtune.tasks.brain.tumor_rewards`) and one's own.

        Raises:
            ConfigError: `weights` names no term, or leaves no term.
        """
        return weighted([*PRESETS[preset], *own], weights)

    def constant_baseline(self, samples: Iterable[Sample]) -> Callable[[Sample], dict[str, Any]]:
        """Return the constant answer: medians over the tumors of samples."""
        return constant_baseline(samples, median)

    def blind(
        self, constant_baseline: Mapping[str, Any], sample: Sample
    ) -> dict[str, dict[str, Any]]:
        """Return truths to claim without looking, by name, given that of the constant answer."""
        geometry = Geometry.model_validate(sample.geometry)
        whole = [0, 0, 0, *geometry.size, geometry.frames]
        box = constant_baseline["bbox_3d"] or whole
        voxel = [int((box[axis] + box[axis + 3]) / 2) for axis in range(3)]
        peak = (
            voxel[2] if constant_baseline["peak_slice"] is None else constant_baseline["peak_slice"]
        )
        claim = {"peak_slice": peak, "tumor_ratio": constant_baseline["tumor_ratio"]}
        return {
            "the whole video": claim | {"bbox_3d": whole},
            "one voxel": claim | {"bbox_3d": [*voxel, *(v + 1 for v in voxel)]},
            "no tumor": {"bbox_3d": None, "peak_slice": None, "tumor_ratio": 0.0},
        }

    def baselines(self, samples: Iterable[Sample], seed: int) -> dict[str, Claims]:
        """Return what answers without a model claim, by name (see `tumor_baselines`)."""
        return baselines(self.config.region, samples, seed)

    def measure(self, judged: Judged) -> dict[str, float | None]:
        """Return the metrics of one answer (see `tumor_metrics`)."""
        return measure(judged)

    def error_hypotheses(self, judged: Judged) -> dict[str, tuple[float, float]] | None:
        """Return the IoU before and after mistakes are undone (see `tumor_metrics`)."""
        return error_hypotheses(judged)

    def centers(self, judged: Judged) -> tuple[Center, Center] | None:
        """Return the centers of answered and true box (see `tumor_metrics`)."""
        return centers(judged)

    def truth_shown(self, sample: Sample) -> Rendered:
        """Return the truth as a reader is shown it (see `tumor_metrics`)."""
        truth = Truth.model_validate(sample.truth)
        return shown(truth.bbox_3d, truth.peak_slice, truth.tumor_ratio)

    def answer_shown(self, answer: Answer) -> Rendered:
        """Return an answer as a reader is shown it (see `tumor_metrics`)."""
        return shown(answer.box, answer.peak, answer.ratio)

    def strata(self, sample: Sample) -> dict[str, Any]:
        """Return size and side of a case (see `tumor_metrics`)."""
        return strata(sample)

    def majority_vote(self, answers: Sequence[Answer | None]) -> int:
        """Return which answer stands for all (see `tumor_metrics`)."""
        return majority_vote(answers)


def _rounded_ratio(ratio: float) -> float:
    """Return a ratio with four decimals, or two digits where four decimals would lose them."""
    return round(ratio, 4) if ratio >= 0.001 else float(f"{ratio:.2g}")


def _is_number(value: Any) -> bool:
    """Return whether a JSON value is a number that a float can hold (integers may be too long)."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    return abs(value) < 1e300 and not math.isnan(value)


def _reject_constant(name: str) -> Any:
    raise InvalidAnswerError(f"{name} is no number")


def _reject_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    if len({key for key, _ in pairs}) < len(pairs):
        raise InvalidAnswerError("a key is given twice")
    return dict(pairs)


def _strict_object(body: str, listed: bool) -> dict[str, Any]:
    try:
        value = json.loads(
            body, parse_constant=_reject_constant, object_pairs_hook=_reject_duplicates
        )
    except InvalidAnswerError:
        raise
    except (ValueError, RecursionError) as error:  # ValueError: also integers of 4300 digits
        raise InvalidAnswerError(f"no JSON ({error})") from None
    if listed:
        value = value[0] if isinstance(value, list) and len(value) == 1 else None
    if not isinstance(value, dict) or set(value) != KEYS:
        raise InvalidAnswerError(f"not one object with exactly the keys {sorted(KEYS)}")
    return value


def _strict_box(box: Any, geometry: Geometry, dialect: CoordinateFormat) -> Box:
    if not isinstance(box, list) or len(box) != 6 or not all(_is_number(v) for v in box):
        raise InvalidAnswerError(f"bbox_3d is {box!r}, not six numbers")
    for axis, limit in enumerate(dialect.limits(geometry)):
        if not 0 <= box[axis] < box[axis + 3] <= limit:
            raise InvalidAnswerError(f"bbox_3d {box} is reversed, empty or outside the frame")
    return dialect.decode(box, geometry)
