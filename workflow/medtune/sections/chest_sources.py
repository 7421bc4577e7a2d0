"""Sections about chest films: sources, labels, verification, splits and readers' boxes."""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from medtune.sections.base import Count, Fraction, Section

NEEDS_PARENT = ("chest_imagenome", "ms_cxr")
MAY_HAVE_PARENT = (*NEEDS_PARENT, "chexpert_plus")


class LabelPolicy(Section):
    """What becomes of labels that a labeller leaves open; the same for every source of labels."""

    uncertain: Literal["ones", "zeros", "ignore"] = Field(
        "ignore",
        description="A label marked uncertain is present (ones), is absent (zeros), or stays "
        "uncertain and is neither asked for nor scored (ignore).",
    )
    blank: Literal["unknown", "absent"] = Field(
        "unknown",
        description="A label that is not mentioned is unknown, or absent where the row mentions "
        "any other. A row without any mention stays unknown.",
    )


class ChestSourceConfig(Section):
    """One set of chest films on disk, in its published layout."""

    name: str = Field(
        description="Short unique name; becomes part of every sample id.", pattern=r"^[a-z0-9_]+$"
    )
    kind: Literal[
        "mimic_cxr",
        "chexpert",
        "chexpert_plus",
        "chest_imagenome",
        "vindr_cxr",
        "ms_cxr",
        "padchest_gr",
    ] = Field(description="Data set: its folder layout and its columns.")
    root: str = Field(description="Its folder; read, never written.")
    parent: str | None = Field(
        None,
        description="Folder of the set whose images it is about: MIMIC-CXR-JPG for Chest ImaGenome "
        "and MS-CXR, CheXpert for CheXpert-Plus; null: CheXpert-Plus with its own images.",
    )
    reports: str | None = Field(
        None,
        description="MIMIC-CXR and MS-CXR: folder that holds `files/p10/p10000032/s50414267.txt`, "
        "the raw reports; null: films without reports.",
    )
    restricted: bool = Field(
        False,
        description="Under a data use agreement: DVC must push neither the source nor anything "
        "made of it.",
    )
    views: list[str] = Field(
        ["PA", "AP", "FRONTAL"],
        description="Views that are kept, as the source writes them (CheXpert's frontal films "
        "without a direction are FRONTAL); an empty list keeps all.",
    )
    labels: LabelPolicy = Field(
        LabelPolicy(), description="What becomes of labels that a labeller leaves open."
    )

    @model_validator(mode="after")
    def _parent_is_named(self) -> Self:
        missing = self.parent is None and self.kind in NEEDS_PARENT
        if missing or (self.parent is not None and self.kind not in MAY_HAVE_PARENT):
            raise ValueError(
                f"kinds {', '.join(NEEDS_PARENT)} need `parent`, the folder with their images; "
                "chexpert_plus may have one; other kinds take none"
            )
        return self


class ChestVerificationConfig(Section):
    """What the check of chest films accepts."""

    overhang: Fraction = Field(
        0.05,
        description="A box may stick out of its image by this share of the image's side and is "
        "clipped; one that sticks out further is an error.",
    )
    on_error: Literal["stop", "exclude"] = Field(
        "stop", description="Stop at films with errors, or leave them out and go on."
    )
    most_excluded: Fraction = Field(
        0.2,
        description="`exclude` stops all the same where films and rows with errors are more than "
        "this share of a source: then something is wrong with all of it.",
    )
    shard_size: Count = Field(5000, description="Films in one table.")


class ChestSplitsConfig(Section):
    """Which patient trains; published test sets stay as they are."""

    follow: list[str] = Field(
        [],
        description="Sources whose own split does not count: their films go where the other "
        "sources put the patient (Chest ImaGenome, to keep MIMIC-CXR's training set whole).",
    )
    test: list[str] = Field(
        [],
        description="Sources that only test, all their patients, whatever they publish: an "
        "external test set. What other sources have of these patients trains nowhere.",
    )
    val: Fraction = Field(
        0.02,
        description="Share of the training patients that validate, in sources that publish no "
        "validation set; by a hash of seed and patient.",
    )


class FusionConfig(Section):
    """Fusion of several readers' boxes, on films published for training only."""

    iou: Annotated[float, Field(gt=0, lt=1)] = Field(
        0.5, description="Boxes of one name that overlap by more than this are one lesion."
    )
    votes: Count = Field(
        2, description="Readers that must have drawn a lesion; others' boxes are dropped."
    )
