"""Answers to `tumor_detection_3d` that are no model's: what one must beat to have learned."""

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from medtune.geometry.volume import Geometry, mask_box
from medtune.media.video import decode
from medtune.records.sample import Sample
from medtune.runtime.files import sha256_text

Claim = dict[str, Any]
Claims = Callable[[Sample, Path], Claim]
# The modality in which a region is brightest.
BRIGHTEST = {"WT": "t2f", "TC": "t1c", "ET": "t1c"}
NONE: Claim = {"bbox_3d": None, "peak_slice": None, "tumor_ratio": 0.0}


def constant_baseline(
    samples: Iterable[Sample], middle: Callable[[Sequence[float]], float]
) -> Callable[[Sample], Claim]:
    """Return the constant answer: the middle of the tumors of samples.

    Box and peak slice are taken as fractions of tile and frames, so that they fit any video.

    Args:
        samples: What is known.
        middle: Mean or median of numbers.
    """
    rows = []
    for sample in samples:
        truth, g = sample.truth, Geometry.model_validate(sample.geometry)
        if truth["bbox_3d"] is not None:
            shares = [v / n for v, n in zip(truth["bbox_3d"], (*g.size, g.frames) * 2, strict=True)]
            rows.append([*shares, truth["peak_slice"] / g.frames, truth["tumor_ratio"]])
    if not rows:  # nothing but tumor-free cases: "none" is the typical answer
        return lambda _: dict(NONE)
    middles = [middle(column) for column in zip(*rows, strict=True)]

    def claim_for(sample: Sample) -> Claim:
        geometry = Geometry.model_validate(sample.geometry)
        extent = (*geometry.size, geometry.frames) * 2
        return {
            "bbox_3d": [m * n for m, n in zip(middles[:6], extent, strict=True)],
            "peak_slice": int(middles[6] * geometry.frames),
            "tumor_ratio": middles[7],
        }

    return claim_for


def _part(geometry: Geometry, low: Any, high: Any) -> Claim:
    """Return a claim of the box between two points, given as fractions of the video."""
    whole = np.array([*geometry.size, geometry.frames])
    box = [*(np.asarray(low) * whole), *(np.asarray(high) * whole)]
    return {
        "bbox_3d": [float(v) for v in box],
        "peak_slice": int((box[2] + box[5]) / 2),
        "tumor_ratio": float(np.prod(np.subtract(high, low))),
    }


def center(geometry: Geometry) -> Claim:
    """Return a box in the center of the video, with half its sides."""
    return _part(geometry, [0.25] * 3, [0.75] * 3)


def chance(geometry: Geometry, key: str) -> Claim:
    """Return a box between two points of the video, uniform and derived from a key."""
    rng = np.random.default_rng(int(sha256_text(key), 16))
    corners = np.sort(rng.uniform(size=(2, 3)), axis=0)
    return _part(geometry, *corners)


def bright(volume: NDArray[np.uint8]) -> Claim:
    """Return the largest bright part of a volume (frames, rows, columns) of gray levels.

    Bright is what exceeds the middle between the median and the largest gray level of the brain
    (what is not black); parts are connected by voxel faces.
    """
    brain = volume > 16  # black, as a video codec leaves it
    levels = volume[brain]
    if levels.size == 0:
        return dict(NONE)
    parts, count = ndimage.label(volume > (np.median(levels) + float(levels.max())) / 2)
    if count == 0:
        return dict(NONE)
    part = parts == 1 + int(np.argmax(np.bincount(parts.ravel())[1:]))
    return {
        "bbox_3d": list(mask_box(part.transpose(2, 1, 0)) or ()),
        "peak_slice": int(np.argmax(part.sum(axis=(1, 2)))),
        "tumor_ratio": float(part.sum() / brain.sum()),
    }


def shown(sample: Sample, dataset: Path, modality: str) -> NDArray[np.uint8]:
    """Return one modality (frames, rows, columns) as a sample's video shows it; else the first."""
    geometry, names = Geometry.model_validate(sample.geometry), sample.meta["modalities"]
    index = names.index(modality) if modality in names else 0
    frames, _ = decode(dataset / sample.media[0].path)
    width, height = geometry.size
    across, down = geometry.tile_offsets[0 if geometry.layout == "rgb" else index]
    tile = frames[:, down * height : (down + 1) * height, across * width : (across + 1) * width]
    return tile[..., index if geometry.layout == "rgb" else 0]


def baselines(region: str, samples: Iterable[Sample], seed: int) -> dict[str, Claims]:
    """Return the baselines by name: what they claim of a sample of a data set folder.

    mean_box: the mean of the training split. random: a box by chance. center: half the sides of
    the video, in its center. bright: see `bright`. oracle: the truth, which dialect and rounding
    then limit.
    """
    mean = constant_baseline(samples, fmean)

    def geometry(sample: Sample) -> Geometry:
        return Geometry.model_validate(sample.geometry)

    return {
        "mean_box": lambda sample, _: mean(sample),
        "random": lambda sample, _: chance(geometry(sample), f"{seed}/{sample.id}"),
        "center": lambda sample, _: center(geometry(sample)),
        "bright": lambda sample, dataset: bright(shown(sample, dataset, BRIGHTEST[region])),
        "oracle": lambda sample, _: sample.truth,
    }
