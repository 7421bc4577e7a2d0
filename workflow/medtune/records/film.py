"""Film: what every chest-film source tells of one image."""

from typing import Literal

from pydantic import BaseModel, ConfigDict

RegionKind = Literal["anatomy", "abnormality", "phrase"]
LabelState = Literal["present", "absent", "uncertain"]
PixelBox = tuple[float, float, float, float]


class Region(BaseModel):
    """A box with a name, as one reader drew it.

    Attributes:
        kind: What the name is: a part of the body, a finding's class, or a phrase of a report.
        name: The source's own words.
        box: `[x1, y1, x2, y2]`, half-open, in pixels of the original image.
        reader: Who drew it, where the source says so.
    """

    model_config = ConfigDict(frozen=True)

    kind: RegionKind
    name: str
    box: PixelBox
    reader: str | None = None


class Film(BaseModel):
    """One image of a source, joined from its tables.

    Attributes:
        source: Name of the source in the configuration.
        image_id: Unique in the source.
        study_id: The examination it belongs to; the image's own id where there is none.
        patient_id: The split unit. Sources made of the same patients use the same ids
            (`mimic/p10000032` in all that derive from MIMIC-CXR).
        split: As the source publishes it, or None.
        path: The image file, relative to the source's folder of images.
        view: As the source writes it (PA, AP, LATERAL, ...), or None.
        sex: Of the patient, where it is known.
        width: Of the original image, whose pixels the boxes count; None: no source says, and
            boxes cannot be placed on the file at hand.
        height: The same.
        labels: What is known of the 13 labels, after the label policy; a label that is not
            mentioned here is unknown.
        no_finding: True: readers found nothing; False: something; None: nobody says.
        report: Sections of the report by name (findings, impression, last_paragraph).
        regions: All boxes.
        listed: The source knows some of the 13 labels only: questions name those that are known.
        groups: What else the source tells, by the name of its column; for subgroups.
    """

    model_config = ConfigDict(frozen=True)

    source: str
    image_id: str
    study_id: str
    patient_id: str
    split: Literal["train", "val", "test"] | None
    path: str
    view: str | None = None
    sex: Literal["female", "male"] | None = None
    width: int | None = None
    height: int | None = None
    labels: dict[str, LabelState] = {}
    no_finding: bool | None = None
    report: dict[str, str] = {}
    regions: tuple[Region, ...] = ()
    listed: bool = False
    groups: dict[str, str] = {}

    @property
    def size(self) -> tuple[int, int] | None:
        """(width, height) of the original in pixels, if both are known."""
        return (self.width, self.height) if self.width and self.height else None
