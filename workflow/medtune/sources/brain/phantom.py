"""Synthetic patients in the BraTS 2023 layout: anatomy, tumors and headers like real ones.

Every patient derives from (seed, patient number) alone, so the same seed gives the same bytes
and adding patients changes none of the others. Intensities follow how tissues look in each
modality: fluid dark in T1 and FLAIR and bright in T2, oedema bright in FLAIR, the enhancing rim
bright only after contrast.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from nibabel.filebasedimages import ImageFileError
from nibabel.orientations import (
    apply_orientation,
    axcodes2ornt,
    inv_ornt_aff,
    ornt_transform,
)
from nibabel.spatialimages import HeaderDataError
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter

from medtune.config.data import PhantomConfig
from medtune.geometry.volume import LPS
from medtune.runtime.console import track
from medtune.runtime.errors import DataError
from medtune.runtime.files import MANIFEST, atomic_folder, write_manifest

Array = NDArray[Any]
ORIENTATIONS = ("LPS", "RAS", "LAS", "RPS", "PIR", "SAL")
# Relative brightness of gray matter, white matter, fluid, NCR, ED and ET.
TISSUES = ("GM", "WM", "CSF", "NCR", "ED", "ET")
CONTRAST: dict[str, tuple[float, ...]] = {
    "t1n": (0.60, 0.80, 0.25, 0.35, 0.55, 0.55),
    "t1c": (0.62, 0.82, 0.25, 0.35, 0.55, 1.30),
    "t2w": (0.75, 0.55, 1.30, 1.15, 1.05, 0.85),
    "t2f": (0.68, 0.60, 0.20, 0.75, 1.15, 1.00),
}
MARK = b"medtune phantom"
LABELS = {"NCR": 1, "ED": 2, "ET": 3}


@dataclass(frozen=True)
class Lesion:
    """An ellipsoidal tumor: center and radii in units of the brain's half axes."""

    center: Array
    radii: Array


def _lesions(rng: np.random.Generator, config: PhantomConfig) -> list[Lesion]:
    """Draw no, one or two lesions that lie inside the brain."""
    if rng.random() < config.healthy:
        return []
    count = 2 if rng.random() < config.second_lesion else 1
    lesions = []
    for _ in range(count):
        radii = np.exp(rng.uniform(np.log(0.22), np.log(0.52))) * rng.uniform(0.75, 1.25, 3)
        direction = rng.normal(size=3)
        reach = (0.95 - radii.max()) * rng.random() ** (1 / 3)
        lesions.append(Lesion(direction / np.linalg.norm(direction) * reach, radii))
    return lesions


def _smooth(rng: np.random.Generator, shape: tuple[int, ...], sigma: float) -> Array:
    """Return smooth noise; the kernel is cut at two sigma, which halves the time."""
    return np.asarray(gaussian_filter(rng.normal(size=shape), sigma, truncate=2.0))


def _tissue(rng: np.random.Generator, shape: tuple[int, ...], lesions: list[Lesion]) -> Array:
    """Return the tissue of every voxel of an lps grid: -1 outside, else an index of `TISSUES`."""
    axes = [np.linspace(-1.12, 1.12, n) for n in shape]
    grid = np.stack(np.meshgrid(*axes, indexing="ij"))
    # A smooth wobble makes brain, ventricles and tumors differ from plain ellipsoids.
    wobble = np.stack([_smooth(rng, shape, 4) for _ in range(3)])
    grid = grid + wobble * (0.05 / wobble.std())
    radius = np.linalg.norm(grid, axis=0)
    tissue = np.full(shape, -1, dtype=np.int8)
    tissue[radius <= 1] = TISSUES.index("GM")
    tissue[radius <= 0.85] = TISSUES.index("WM")
    ventricle = rng.uniform(0.8, 1.2)
    for side in (-1, 1):
        center = np.array([0.16 * side, 0.05, 0.05]).reshape(3, 1, 1, 1)
        size = ventricle * np.array([0.10, 0.38, 0.22]).reshape(3, 1, 1, 1)
        tissue[np.linalg.norm((grid - center) / size, axis=0) <= 1] = TISSUES.index("CSF")
    brain = radius <= 0.97
    for lesion in lesions:
        offset = (grid - lesion.center.reshape(3, 1, 1, 1)) / lesion.radii.reshape(3, 1, 1, 1)
        distance = np.linalg.norm(offset, axis=0)
        for name, limit in (("ED", 1.0), ("ET", 0.62), ("NCR", 0.42)):
            tissue[brain & (distance <= limit)] = TISSUES.index(name)
    return tissue


def _image(rng: np.random.Generator, tissue: Array, modality: str) -> Array:
    """Return one modality: tissue contrast, blur, bias field and noise; 0 outside the brain."""
    levels = np.array([*CONTRAST[modality], 0.0])  # index -1 is outside
    image = gaussian_filter(levels[tissue], 0.5)
    bias = _smooth(rng, tissue.shape, 8)
    image = image * (1 + bias * (0.06 / bias.std()))
    image = image + rng.normal(scale=0.03, size=tissue.shape)
    scale = np.exp(rng.uniform(np.log(200), np.log(2000)))
    image = np.where(tissue >= 0, np.maximum(image, 0.01) * scale, 0)
    if rng.random() < 0.2:  # interpolation leaves a few negative voxels in real files
        rim = np.flatnonzero((tissue >= 0) & (image < 0.3 * scale))[:5]
        image.flat[rim] = -0.002 * scale
    return np.asarray(image)


def _affine(rng: np.random.Generator, shape: tuple[int, ...]) -> Array:
    """Return an lps-voxel to RAS mm affine with a random spacing and origin."""
    brain_mm = np.array([140.0, 175.0, 130.0]) * rng.uniform(0.92, 1.08)
    spacing = np.round(brain_mm * 1.12 / np.array(shape), 2)
    affine = np.diag([-spacing[0], -spacing[1], spacing[2], 1.0])
    affine[:3, 3] = np.round(rng.uniform(-20, 20, 3) + [0, brain_mm[1], 0], 2)
    return affine


def _save(
    path: Path, volume: Array, affine: Array, orientation: str, dtype: type, code: int
) -> None:
    """Write an lps volume in another stored orientation."""
    turn = ornt_transform(LPS, axcodes2ornt(tuple(orientation)))
    stored = apply_orientation(volume, turn).astype(dtype)
    image = nib.Nifti1Image(stored, affine @ inv_ornt_aff(turn, volume.shape))
    image.header.set_xyzt_units("mm", "sec")
    image.header["descrip"] = MARK
    image.set_sform(image.affine, code)
    image.set_qform(image.affine, code)
    path.parent.mkdir(exist_ok=True)
    nib.save(image, path)


def _examinations(number: int, seed: int, config: PhantomConfig) -> Iterator[tuple[str, float]]:
    """Yield (case id, growth of the lesions) of one patient's time points."""
    rng = np.random.default_rng([seed, number, 0])
    yield f"BraTS-GLI-{number:05d}-000", 1.0
    if rng.random() < config.follow_up:
        yield f"BraTS-GLI-{number:05d}-001", float(rng.uniform(0.8, 1.2))


def _write_patient(root: Path, number: int, seed: int, config: PhantomConfig) -> list[Path]:
    """Write every examination of one patient; return the files."""
    written = []
    for visit, (case_id, growth) in enumerate(_examinations(number, seed, config)):
        rng = np.random.default_rng([seed, number, 1])  # the anatomy is the patient's
        shape = tuple(int(n + rng.integers(-2, 3)) for n in config.shape)
        lesions = [Lesion(lesion.center, lesion.radii * growth) for lesion in _lesions(rng, config)]
        tissue = _tissue(rng, shape, lesions)
        affine = _affine(rng, shape)
        rng = np.random.default_rng([seed, number, 2, visit])  # the scan is the visit's
        orientation = ORIENTATIONS[rng.integers(len(ORIENTATIONS))]
        mask = np.zeros(shape, dtype=np.int16)
        for name, code in LABELS.items():
            mask[tissue == TISSUES.index(name)] = code
        for modality in CONTRAST:
            path = root / case_id / f"{case_id}-{modality}.nii.gz"
            image = np.rint(_image(rng, tissue, modality))
            _save(path, image, affine, orientation, np.int16, code=1)
            written.append(path)
        mask_dtype = (np.uint8, np.int16, np.float32)[rng.integers(3)]
        path = root / case_id / f"{case_id}-seg.nii.gz"
        _save(path, mask, affine, orientation, mask_dtype, code=2)
        written.append(path)
    return written


def _refuse_foreign_data(root: Path) -> None:
    """Raise a `DataError` if a folder holds any file that is not an earlier phantom's."""
    for path in sorted(root.rglob("*")):
        ours = path.is_dir() or path == root / MANIFEST or _is_phantom(path)
        if not ours:
            raise DataError(path, "is no phantom", "give `phantom.root` a folder of its own")


def _is_phantom(path: Path) -> bool:
    try:
        return bool(nib.load(path).header["descrip"] == MARK)
    except (ImageFileError, HeaderDataError, OSError, KeyError):
        return False


def write_phantom(config: PhantomConfig, seed: int) -> None:
    """Write all synthetic patients and a manifest; an earlier phantom there is replaced.

    Raises:
        DataError: The folder holds something else.
    """
    root = Path(config.root)
    _refuse_foreign_data(root)
    files: list[Path] = []
    with atomic_folder(root) as temporary:
        for number in track(range(config.patients), "phantom patients"):
            files += _write_patient(temporary, number, seed, config)
        known = config.model_dump(mode="json") | {"seed": seed}
        write_manifest(temporary, files, known, stage="phantom")
