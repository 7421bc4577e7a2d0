"""What every source yields: cases with named modalities, a mask and a named label map."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

from pydantic import BaseModel, ConfigDict, Field

from medtune.sections.data import SourceConfig

# Label names that make up a region: those of the BraTS evaluation; the gross tumour volume of
# radiotherapy is all tumour that is drawn; a mask of a region itself bears its name. The
# resection cavity (RC) is no tumour.
REGIONS: dict[str, frozenset[str]] = {
    "WT": frozenset({"WT", "NCR", "NET", "ED", "ET", "GTV"}),
    "TC": frozenset({"TC", "NCR", "NET", "ET", "GTV"}),
    "ET": frozenset({"ET"}),
}
LABEL_NAMES = frozenset({"RC"}).union(*REGIONS.values())


class Volume(BaseModel):
    """A 3-D image on disk: a file, or one channel of a 4-D file."""

    model_config = ConfigDict(frozen=True)

    path: str
    channel: int | None = None


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
    absent: dict[str, str] = {}
    background: float | None = 0.0
    brain_mask: str | None = None
    groups: dict[str, str] = {}
    origin: str = Field("", exclude=True)

    @property
    def id(self) -> str:
        """`<source>/<case>`."""
        return f"{self.source}/{self.case_id}"


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


def folders(root: Path) -> Iterator[Path]:
    """Yield every folder below `root`; symbolic links are followed, each folder once."""
    seen = set()
    for path, names, _ in os.walk(root, followlinks=True):
        real = os.path.realpath(path)
        if real in seen:
            names.clear()
            continue
        seen.add(real)
        names.sort()
        yield Path(path)
