"""What every source yields: cases with named modalities, a mask and a named label map."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple, Protocol, Self

from pydantic import BaseModel, ConfigDict, Field

from medtune.config.data import NiftiForm, SourceConfig
from medtune.records.volume_files import volume_suffix

# Label names that make up a region: those of the BraTS evaluation (see `brats.py` for the sources);
# the gross tumor volume of radiotherapy is all tumor that is drawn; a mask of a region itself
# bears its name. The cystic component (CC) belongs to the core; the resection cavity (RC) is no
# tumor.
REGIONS: dict[str, frozenset[str]] = {
    "WT": frozenset({"WT", "NCR", "NET", "CC", "ED", "ET", "GTV"}),
    "TC": frozenset({"TC", "NCR", "NET", "CC", "ET", "GTV"}),
    "ET": frozenset({"ET"}),
}
LABEL_NAMES = frozenset({"RC"}).union(*REGIONS.values())


class Volume(BaseModel):
    """A 3-D image on disk: a file, or one channel of a 4-D file.

    Attributes:
        path: The file; of a pair (.hdr, .img) either one.
        channel: Which volume of a 4-D file.
        nifti_form: Which form of a NIfTI header places the voxels; None: all must agree.
    """

    model_config = ConfigDict(frozen=True)

    path: str
    channel: int | None = None
    nifti_form: NiftiForm | None = None


class Case(BaseModel):
    """One examination of one patient.

    Attributes:
        source: Name of the source in the configuration.
        case_id: Name of the examination, unique in its source.
        patient_id: `<cohort>:<patient>`, the unit of every split; releases that share patients
            share a cohort.
        images: File of each modality.
        mask: Segmentation, or None for a case without one.
        labels: Name of every label code of the mask.
        split: Split that the source itself prescribes, or None.
        nifti_form: Which form of a NIfTI header places the voxels of its masks; images say so
            themselves.
        absent: File that was looked for, of each modality (and `mask`) that has none; empty where
            a table's cell is.
        background: Value of the images outside the brain; None: what their corners share.
        brain_mask: Image that is not 0 in the brain, which goes before `background`, or None.
        groups: Text of each further column that the evaluation tells cases apart by.
        origin: The row of a table that describes the case, or nothing; not stored.
    """

    model_config = ConfigDict(frozen=True)

    source: str
    case_id: str
    patient_id: str
    images: dict[str, Volume]
    mask: str | None
    labels: dict[int, str]
    split: str | None = None
    nifti_form: NiftiForm | None = None
    absent: dict[str, str] = {}
    background: float | None = 0.0
    brain_mask: str | None = None
    groups: dict[str, str] = {}
    origin: str = Field("", exclude=True)

    @property
    def mask_volume(self) -> Volume | None:
        """The segmentation as a volume, or None for a case without one."""
        return Volume(path=self.mask, nifti_form=self.nifti_form) if self.mask else None

    @property
    def brain_volume(self) -> Volume | None:
        """The mask of the brain as a volume, or None for a case without one."""
        path = self.brain_mask
        return Volume(path=path, nifti_form=self.nifti_form) if path else None

    def with_form(self, nifti_form: NiftiForm | None) -> Self:
        """Return the case with all its files placed by one form of their headers."""
        update = {"nifti_form": nifti_form}
        images = {name: image.model_copy(update=update) for name, image in self.images.items()}
        return self.model_copy(update={**update, "images": images})

    def without_files(self) -> Self:
        """Return the case without paths: the same wherever its files are."""
        update: dict[str, Any] = {"images": {}, "mask": None, "brain_mask": None, "absent": {}}
        return self.model_copy(update=update)

    @property
    def id(self) -> str:
        """`<source>/<case>`."""
        return f"{self.source}/{self.case_id}"


class Usual(NamedTuple):
    """What holds in most cases with a tumor of a source whose label map is right.

    Attributes:
        more: Labels that are there, or together are at least as large as `less`.
        less: Labels; none: `more` is there at all.
        share: Share of such cases, of 1.
        otherwise: What the label map is likely to be where this does not hold.
    """

    more: tuple[str, ...]
    less: tuple[str, ...]
    share: float
    otherwise: str = "the codes may have other names"


class LeftOut(BaseModel):
    """A folder below a source's root that holds images, of which no case was made.

    Attributes:
        source: Name of the source.
        folder: The folder, relative to the root.
        found: What it holds.
        expected: How the source's cases are stored.
        remedy: The likeliest cause, and what to do.
    """

    source: str
    folder: str
    found: str
    expected: str
    remedy: str


class Source(Protocol):
    """A data set's folder layout, naming and label map."""

    @property
    def labels(self) -> dict[int, str]:
        """Name of every label code."""

    @property
    def modalities(self) -> tuple[str, ...]:
        """Modalities that cases may have."""

    def find(self, config: SourceConfig) -> list[Case]:
        """Return every case below `config.root`, in any order."""


def is_junk(name: str) -> bool:
    """Return whether a name is one that macOS leaves in archives and on shared disks."""
    return name == "__MACOSX" or name.startswith("._") or name == ".DS_Store"


def image_stem(name: str) -> str | None:
    """Return an image file's name without its ending (in any capitals), or None if it is none."""
    ending = volume_suffix(name)
    return name[: -len(ending)] if ending and not is_junk(name) else None


def walk(root: Path) -> Iterator[tuple[Path, list[str], list[str]]]:
    """Yield every folder below `root` with the names of its subfolders and of its other entries.

    Symbolic links are followed, so that dangling ones are among the other entries. A folder that is
    reached a second time, through a link or a loop of links, is yielded by that name too, since the
    link may bear a case's name, but what is below it is not walked again.
    """
    seen = set()
    for path, folders_here, files in os.walk(root, followlinks=True):
        here = sorted(name for name in folders_here if not is_junk(name))
        real = os.path.realpath(path)
        folders_here[:] = [] if real in seen else here
        seen.add(real)
        yield Path(path), here, sorted(name for name in files if not is_junk(name))


def folders(root: Path) -> Iterator[Path]:
    """Yield every folder below `root`; see `walk`."""
    for path, _, _ in walk(root):
        yield path
