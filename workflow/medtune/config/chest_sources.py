"""Sections about chest films: sources, labels, verification, splits and readers' boxes."""

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from medtune.config.base import Count, Fault, Fraction, Section

NEEDS_PARENT = ("chest_imagenome", "ms_cxr")
MAY_HAVE_PARENT = (*NEEDS_PARENT, "chexpert_plus")
HAS_REPORTS = ("mimic_cxr", "ms_cxr")
# Keys that only your own tables have.
OF_TABLES = ("table", "boxes", "boxes_complete", "label_columns", "groups", "cohort")


class LabelPolicy(Section):
    """What becomes of labels that a labeler leaves open; the same for every source of labels."""

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
        "open_i",
        "nih_cxr14",
        "rsna_pneumonia",
        "siim_pneumothorax",
        "padchest",
        "table",
    ] = Field(
        description="Data set: its folder layout and its columns. table: your own films, a row of "
        "a table each."
    )
    root: str = Field(description="Its folder; read, never written.")
    parent: str | None = Field(
        None,
        description="Folder of the set whose images it is about: MIMIC-CXR-JPG for Chest ImaGenome "
        "and MS-CXR, CheXpert for CheXpert-Plus; null: CheXpert-Plus with its own images.",
    )
    reports: str | None = Field(
        None,
        description="MIMIC-CXR and MS-CXR: folder that holds `files/p10/p10000032/s50414267.txt`, "
        "the raw reports, or a CSV table of their sections (`mimic_cxr_sectioned.csv`, "
        "`reports.csv`: study, findings, impression and perhaps last_paragraph); null: films "
        "without reports.",
    )
    filtered_reports: str | None = Field(
        None,
        description="Folder of reports that somebody has filtered, `<study>.txt`: they are checked "
        "like those of `films.texts`, and taken instead of them. A study without one has none.",
    )
    conversations: str | None = Field(
        None,
        description="Folder, searched with all below it, of conversations that somebody has made, "
        "`<image>.json`: they are checked like those of `films.texts`, and taken instead of them.",
    )
    table: str | None = Field(
        None,
        description="table: the CSV or Parquet file, relative to `root`, with the columns image "
        "and patient, and perhaps study, split, view, sex, report or its sections, labels, boxes.",
    )
    boxes: str | None = Field(
        None,
        description="table: a second file, relative to `root`, with the columns image, one of "
        "class, phrase and anatomy, corners (x1, y1, x2, y2) or corner and size (x, y, w, h) in "
        "pixels of the image, and perhaps reader. Null: the table may have these columns itself.",
    )
    boxes_complete: bool = Field(
        False,
        description="table: every abnormality of every film has its box, so that films can be "
        "searched for all of them (task abnormality_detection).",
    )
    label_columns: dict[str, str] = Field(
        {}, description="table: column -> the label that it is about, where its name is another."
    )
    groups: list[str] = Field(
        [],
        description="table: further columns (age, site, scanner, ...) that come with every sample "
        "in `meta.groups`, and make subgroups of the evaluation.",
    )
    cohort: str | None = Field(
        None,
        description="table: sources of one cohort name their patients alike, and no patient is in "
        "two splits. Published ones are mimic (`p10000032`), chexpert (`patient00001`), nih (`1`) "
        "and padchest. Null: a cohort of its own.",
        pattern=r"^[a-z0-9_]+$",
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
        LabelPolicy(), description="What becomes of labels that a labeler leaves open."
    )

    @property
    def folders(self) -> list[str]:
        """All that it names outside its root, and the root."""
        named = (self.parent, self.reports, self.filtered_reports, self.conversations)
        return [self.root, *(folder for folder in named if folder)]

    @property
    def tables(self) -> list[str]:
        """The folders and files with its tables."""
        below = [str(Path(self.root, name)) for name in (self.table, self.boxes) if name]
        named = [self.root, self.parent or "", *below, self.reports or ""]
        return [one for one in named if one and (one != self.reports or Path(one).is_file())]

    @property
    def draws_everything(self) -> bool:
        """Whether a film without a box may be said to be normal, and boxes to be all there are."""
        return self.kind != "table" or self.boxes_complete

    def faults(self) -> Iterator[Fault]:
        """Yield keys that do not fit the kind of source."""
        given = tuple(key for key in OF_TABLES if getattr(self, key))
        if self.kind == "table" and self.table is None:
            found = "the kind table needs the file with a row for each image"
            yield Fault(("table", "kind"), found, "add `table`")
        if self.kind != "table" and given:
            found = f"only the kind table has {', '.join(given)}"
            yield Fault((*given, "kind"), found, "take them away")
        if taken := sorted({*self.groups} & {"source", "size", "side"}):
            yield Fault(("groups",), f"names {taken}, which are groups already", "take them away")
        if self.reports is not None and self.kind not in HAS_REPORTS:
            found = f"only the kinds {', '.join(HAS_REPORTS)} have `reports`"
            yield Fault(("reports", "kind"), found, "take it away")
        missing = self.parent is None and self.kind in NEEDS_PARENT
        if missing or (self.parent is not None and self.kind not in MAY_HAVE_PARENT):
            found = (
                f"kinds {', '.join(NEEDS_PARENT)} need `parent`, the folder with their images; "
                "chexpert_plus may have one; other kinds take none"
            )
            yield Fault(("parent", "kind"), found, "add it" if missing else "take it away")


class ChestVerificationConfig(Section):
    """What the check of chest films accepts."""

    box_tolerance: Fraction = Field(
        0.05,
        description="A box may stick out of its image by this share of the image's side and is "
        "clipped; one that sticks out further is an error.",
    )
    on_error: Literal["stop", "exclude"] = Field(
        "stop", description="Stop at films with errors, or leave them out and go on."
    )
    max_excluded_fraction: Fraction = Field(
        0.2,
        description="`exclude` stops all the same where films and rows with errors are more than "
        "this share of a source: then something is wrong with all of it.",
    )
    shard_size: Count = Field(5000, description="Films in one table.")


class ChestSplitsConfig(Section):
    """Which patient trains; published test sets stay as they are."""

    inherit_split_from: list[str] = Field(
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
    """Fusion of several readers' boxes, on films that are not published for val or test.

    The defaults are RadVLM's.
    """

    iou: Annotated[float, Field(gt=0, lt=1)] = Field(
        0.1, description="Boxes of one name that overlap by more than this are one lesion."
    )
    min_readers: Count = Field(
        1,
        description="Readers that must have drawn a lesion. 1, as published, keeps the 16,089 "
        "pairs of film and class of VinDr-CXR; with 2 about half of them go, which `fusion.csv` "
        "beside the data set counts by class. What goes is not taken for absent: a film that loses "
        "all boxes of a class is not asked for all its abnormalities.",
    )
