"""What verification says of a case."""

from typing import Literal

from pydantic import BaseModel

from medtune.records.case import Case


class Issue(BaseModel):
    """One fault (error), or oddity (warning), of one case."""

    code: str
    severity: Literal["error", "warning"]
    case: str
    found: str
    expected: str
    remedy: str


class CheckedCase(BaseModel):
    """What verification learned about a case.

    Attributes:
        case: The case.
        findings: What is wrong or odd.
        files: SHA-256 of every file that was read, by path.
        image_hashes: SHA-256 of each image's voxels in lps, whatever dtype and storage order.
        orientation: Axis codes of the stored grid, such as LPS; empty if it has no sound image.
        spacing: Voxel spacing in mm of the stored grid; empty if it has no sound image.
        labels_ml: Volume of every label in mL; empty without a sound mask.
        kind: Kind of its source.
        allow_empty_masks: Whether its source may hold cases without a tumor.
    """

    case: Case
    findings: list[Issue]
    files: dict[str, str]
    image_hashes: dict[str, str]
    orientation: str
    spacing: list[float]
    labels_ml: dict[str, float] = {}
    kind: str = ""
    allow_empty_masks: bool = False

    @property
    def has_errors(self) -> bool:
        """Whether something in its own files is wrong."""
        return any(finding.severity == "error" for finding in self.findings)
