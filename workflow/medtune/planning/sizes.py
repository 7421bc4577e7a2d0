"""Tokens and patches of samples, without reading a video."""

from pathlib import Path
from typing import Any

import numpy as np

from medtune.config.base import Section
from medtune.config.experiment import Config
from medtune.media.grid import Grid
from medtune.media.volume import plan_geometry
from medtune.models.coordinate_format import COORDINATE_FORMATS
from medtune.models.inputs import prompt_length
from medtune.records.sample import Media, Sample, iterate, load_split
from medtune.runtime.errors import DataError
from medtune.tasks import get_task
from medtune.tasks.brain.tumor_detection_3d import TumorDetection3D
from medtune.training.batches import SftCollator

BRATS = (240, 240, 155)  # voxels of a BraTS volume


class Size(Section):
    """What a sample takes.

    Attributes:
        id: The sample.
        prompt: Tokens of the question with its video.
        answer: Tokens of the gold answer.
        patches: Vision patches.
        frames: Temporal patches.
    """

    id: str
    prompt: int
    answer: int
    patches: int
    frames: int

    @property
    def tokens(self) -> int:
        """Tokens of question and answer."""
        return self.prompt + self.answer


def size_of(sample: Sample, collator: SftCollator) -> Size:
    """Return the size of a sample."""
    media, processor = sample.media[0], collator.processor
    sizes = processor.video_processor if media.kind == "video" else processor.image_processor
    frames = -(-media.frames // sizes.temporal_patch_size)
    grid = (media.height // sizes.patch_size) * (media.width // sizes.patch_size)
    prompt = collator.task.prompt(sample, collator.dialect)
    turns = collator.task.render_history(sample, collator.dialect).turns
    return Size(
        id=sample.id,
        prompt=prompt_length(processor, prompt, media, turns),
        answer=len(collator.answer(sample)),
        patches=frames * grid,
        frames=frames,
    )


def training_sizes(config: Config, processor: Any, dataset: Path) -> list[Size]:
    """Return the sizes of the training split, or of one assumed sample if there is no data set.

    Raises:
        DataError: There is no data set of films, whose longest question nobody knows before.
    """
    collator = SftCollator(
        processor, get_task(config.task), COORDINATE_FORMATS[config.model.family], dataset
    )
    if not dataset.is_dir() and config.films:
        raise DataError(dataset, "is not there yet", "run `snakemake prepare` first")
    if not dataset.is_dir():
        return [size_of(assumed_sample(config), collator)]
    return [size_of(sample, collator) for sample in iterate(load_split(dataset, "train"))]


def assumed_shape(config: Config) -> tuple[int, int, int]:
    """Return the voxels of a volume where there is no data set: the phantom's, or BraTS'."""
    return config.phantom.shape if config.phantom else BRATS


def assumed_sample(config: Config) -> Sample:
    """Return a sample of the assumed shape, of which nothing is cropped: an upper bound."""
    shape, task = assumed_shape(config), TumorDetection3D(config.task)
    grid = Grid(np.broadcast_to(np.uint8(1), shape), np.diag([-1.0, -1.0, 1.0, 1.0]), True)
    geometry = plan_geometry(grid, np.ones(shape, dtype=bool), config.media)
    width, height = geometry.frame_size
    box = [0.0, 0.0, 0.0, *map(float, geometry.size), float(geometry.frames)]
    truth = {"bbox_3d": box, "peak_slice": geometry.frames - 1, "tumor_ratio": 0.1234}
    media = Media(
        kind="video",
        path="",
        width=width,
        height=height,
        frames=geometry.frames,
        fps=config.media.fps,
        sha256="",
    )
    return Sample(
        id=f"a volume of {shape[0]} x {shape[1]} x {shape[2]} voxels",
        source="",
        case_id="",
        patient_id="",
        split="train",
        task=task.name,
        media=[media],
        prompt=task.question("assumed", geometry, config.media.modalities),
        target=None,
        truth=truth,
        geometry=geometry.model_dump(mode="json"),
        meta={},
    )
