"""Small made volumes: a brain of four images with a lesion on one side, and headers to spoil."""

import gzip
from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np

from medtune.config.data import SourceConfig, VerificationConfig
from medtune.records.case import Case, Volume
from medtune.records.issue import Issue
from medtune.sources import find_cases
from medtune.sources.check import check_case, check_images

SHAPE = (20, 24, 12)
AFFINE = np.array([[-7.0, 0, 0, 66.5], [0, -7, 0, 80.5], [0, 0, 11, -60], [0, 0, 0, 1]])
MODALITIES = ("t1n", "t1c", "t2w", "t2f")
NAME = "BraTS-GLI-00001-000"
Spoil = Callable[[nib.Nifti1Header], None]


def images(shape=SHAPE) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """Return four images of an ellipsoid that is not zero, and a lesion of labels 1, 2, 3."""
    random = np.random.default_rng(0)
    grid = np.stack(np.meshgrid(*[np.linspace(-1, 1, n) for n in shape], indexing="ij"))
    brain = (grid**2).sum(axis=0) < 0.9
    made = {m: np.where(brain, random.integers(50, 900, shape), 0) for m in MODALITIES}
    distance = ((grid - np.array([-0.4, 0.1, 0.1])[:, None, None, None]) ** 2).sum(axis=0)
    mask = np.digitize(-distance, [-0.15, -0.08, -0.03]) * brain
    return {m: a.astype(np.int16) for m, a in made.items()}, mask.astype(np.uint8)


def save(path: Path, values: np.ndarray, spoil: Spoil | None = None, affine=AFFINE) -> str:
    """Write a NIfTI whose forms agree, and then change its header as stored."""
    image = nib.Nifti1Image(values, affine, dtype=values.dtype)
    image.set_qform(affine, 1)
    image.set_sform(affine, 1)
    image.header.set_xyzt_units("mm")
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(image, path)
    if spoil:
        raw = path.read_bytes()
        packed = raw[:2] == b"\x1f\x8b"
        data = bytearray(gzip.decompress(raw) if packed else raw)
        header = nib.Nifti1Header(bytes(data[:348]), check=False)
        spoil(header)
        data[:348] = header.binaryblock
        path.write_bytes(gzip.compress(bytes(data)) if packed else bytes(data))
    return str(path)


def set_rows(header: nib.Nifti1Header, affine: np.ndarray) -> None:
    """Write an affine into the sform's rows, and nowhere else."""
    for axis, row in zip("xyz", np.asarray(affine), strict=False):
        header[f"srow_{axis}"] = row


def brats(root: Path, spoil: Spoil | None = None, only=None, change=None, **source) -> Case:
    """Write a case of BraTS 2023 and find it.

    Args:
        root: Folder of the source.
        spoil: Changes the headers.
        only: Which files; all if None.
        change: Modality -> what is done with its voxels.
        source: Further keys of the source.
    """
    made, mask = images()
    for name, values in {**made, "seg": mask}.items():
        here = spoil if only in (None, name) else None
        changed = (change or {}).get(name, lambda v: v)(values)
        save(root / NAME / f"{NAME}-{name}.nii.gz", changed, here)
    (case,) = find_cases([config(root, **source)])
    return case


def config(root: Path, **source) -> SourceConfig:
    return SourceConfig(name="made", kind="brats2023_gli", root=str(root), **source)


def findings(case: Case, **source) -> list[Issue]:
    """Return the findings of a case of a source."""
    return check_case(case, config(Path(), **source), VerificationConfig()).findings


def image_findings(path: object, **volume) -> list[Issue]:
    """Return the findings of a single image."""
    volumes = {"t1c": Volume(path=str(path), **volume)}
    case = Case(source="s", case_id="c", patient_id="p", images=volumes, mask=None, labels={})
    return check_images(case, ["t1c"], VerificationConfig(min_brain_ml=1))


def corners(affine: np.ndarray, shape=SHAPE) -> np.ndarray:
    """Return where an affine places the corners of a grid, one by one."""
    ends = [
        (i, j, k, 1)
        for i in (0, shape[0] - 1)
        for j in (0, shape[1] - 1)
        for k in (0, shape[2] - 1)
    ]
    return np.array([(affine @ end)[:3] for end in ends])
