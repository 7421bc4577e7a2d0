"""What every source yields: cases with named modalities, a mask and a named label map."""

from pathlib import Path
from typing import Protocol

from pydantic import BaseModel, ConfigDict

# Regions of the BraTS evaluation by label name. The resection cavity (RC) is no tumour.
REGIONS: dict[str, frozenset[str]] = {
    "WT": frozenset({"NCR", "NET", "ED", "ET"}),
    "TC": frozenset({"NCR", "NET", "ET"}),
    "ET": frozenset({"ET"}),
}


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
        patient_id: `<source kind's patient>`; the unit of every split.
        images: File of each modality (t1n, t1c, t2w, t2f).
        mask: Segmentation, or None for a case without one.
        split: Split the source prescribes, or None.
    """

    model_config = ConfigDict(frozen=True)

    source: str
    case_id: str
    patient_id: str
    images: dict[str, Volume]
    mask: str | None
    split: str | None = None

    @property
    def id(self) -> str:
        """`<source>/<case>`."""
        return f"{self.source}/{self.case_id}"


class Source(Protocol):
    """A data set's folder layout, naming and label map."""

    @property
    def labels(self) -> dict[int, str]:
        """Name of every label code."""

    def find(self, root: Path) -> list[tuple[str, str, dict[str, Volume], str | None]]:
        """Return (case id, patient id, images, mask) of every case below `root`, by case id."""
