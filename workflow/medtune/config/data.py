"""Sections about the data: sources, verification, splits, media and task."""

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, Field, NonNegativeInt

from medtune.config.base import Count, Fault, Fraction, NonNegative, Section

# The two ways in which a NIfTI header places its voxels.
NiftiForm = Literal["sform", "qform"]
TABLE_COLUMNS = ("case_id", "patient_id", "mask", "brain_mask", "split")
# By what the evaluation tells cases apart in any case.
GROUPS = ("source", "size", "side")
# How many modalities each layout shows.
SHOWS = {"row": (2, 3, 4), "grid": (2, 3, 4), "rgb": (3,), "single": (1,)}


def expanded(path: str) -> str:
    """Return a path with the home folder in place of `~`."""
    return str(Path(path).expanduser()) if path.startswith("~/") else path


Folder = Annotated[str, AfterValidator(expanded)]


class PhantomConfig(Section):
    """Synthetic patients written as a BraTS 2023 folder, for the demo and for tests."""

    root: Folder = Field("data/phantom", description="Folder that is written.")
    patients: Count = Field(400, description="Number of synthetic patients.")
    shape: tuple[Count, Count, Count] = Field(
        (44, 52, 16),
        description="Typical grid (Left, Posterior, Superior) in voxels; varies by case.",
    )
    healthy: Fraction = Field(0.1, description="Share of patients without a tumor.")
    second_lesion: Fraction = Field(0.1, description="Share of tumor patients with two lesions.")
    follow_up: Fraction = Field(0.15, description="Share of patients with a second time point.")


class SourceConfig(Section):
    """One data set on disk."""

    name: str = Field(
        description="Short unique name; becomes part of every sample id.", pattern=r"^[a-z0-9_]+$"
    )
    kind: Literal[
        "brats2018",
        "brats2021",
        "brats2023_gli",
        "brats2023_men",
        "brats2023_met",
        "brats2023_ped",
        "brats2023_ssa",
        "brats2024_gli",
        "brats2024_goat",
        "brats2024_men_rt",
        "brats2024_met",
        "brats2024_ped",
        "msd_brain",
        "nnunet",
        "table",
    ] = Field(
        description="Layout, naming and label map: a BraTS release (brats2018 also reads 2017, "
        "2019 and 2020, those of 2023 and 2024 later years with the same labels; docs/data.md), "
        "MSD Task01, a data set in the layout of nnU-Net, or a table of your own."
    )
    root: Folder = Field(description="Folder that holds the cases; read, never written.")
    masks: Literal["required", "optional"] = Field(
        "required",
        description="Whether a case without a mask is an error, or is indexed for inference only.",
    )
    allow_empty_masks: bool = Field(
        False,
        description="The source holds cases without a tumor: an empty mask, or one without "
        "`task.region`, is no error.",
    )
    background: float | Literal["corners"] = Field(
        0.0,
        description="Value of the images outside the brain, such as -1024; corners: the one that "
        "the corners of each image share (z-scored images). A brain_mask of a table goes first.",
    )
    table: str | None = Field(
        None,
        description="Kind `table`: CSV or Parquet file below `root` with the columns case_id, "
        "patient_id, mask, brain_mask, split (the last three may be missing), those of `groups` "
        "and one per modality.",
    )
    labels: dict[int, str] | None = Field(
        None,
        description="Kind `table`: name of every label code but 0 (NCR, NET, CC, ED, ET, RC, GTV, "
        "or WT, TC, ET for masks of a region).",
    )

    nifti_form: NiftiForm | None = Field(
        None,
        description="Which of a NIfTI header's forms places the voxels where both are set and "
        "differ: `sform`, or `qform` with the voxel sizes in pixdim; null: they must agree.",
    )

    groups: list[str] = Field(
        [],
        description="Kind `table`: further columns (age, site, scanner, ...) that become subgroups "
        "of the evaluation.",
    )

    @property
    def background_value(self) -> float | None:
        """The value outside the brain, or None for what the corners of each image share."""
        return None if self.background == "corners" else self.background

    def faults(self) -> Iterator[Fault]:
        """Yield keys that do not fit the kind of source, and groups that are none."""
        taken = sorted(set(self.groups) & {*TABLE_COLUMNS, *GROUPS})
        if taken or len(set(self.groups)) < len(self.groups):
            found = (
                f"{self.groups} holds {taken or 'a name twice'}; size, side and source are "
                "groups already, and the table's own columns are none"
            )
            yield Fault(("groups",), found, "take it away")
        described = self.table is not None and bool(self.labels)
        if described != (self.kind == "table") or (self.labels and 0 in self.labels):
            found = "kind `table` needs `table` and `labels` (without 0); other kinds take neither"
            remedy = "give both" if self.kind == "table" else "take both away"
            yield Fault(("table", "labels", "kind"), found, remedy)
        if self.groups and self.kind != "table":
            found = "names columns of a table; other kinds have none"
            yield Fault(("groups", "kind"), found, "take it away")


class ListedSourceConfig(SourceConfig):
    """One data set, and what may be done with it."""

    restricted: bool = Field(
        False,
        description="Under a data use agreement: DVC must push neither the source nor anything "
        "made of it.",
    )
    frozen: bool = Field(
        False,
        description="The files below `root` never change: planning does not look at them, and "
        "other times (a `touch`, a copy) rerun nothing. Changing this key reads it once more.",
    )


class VerificationConfig(Section):
    """What the check of the raw data accepts."""

    affine_tolerance_mm: NonNegative = Field(
        0.1,
        description="Largest distance between the grids of the images and the mask of a case, and "
        "between what one header says in several places, at the corners of the grid.",
    )
    min_brain_ml: NonNegative = Field(
        100.0, description="Least volume of what is not background that counts as a brain."
    )
    max_mask_outside_brain: Fraction = Field(
        0.01, description="Largest share of a mask that may lie where every image is zero."
    )
    on_error: Literal["stop", "exclude"] = Field(
        "stop", description="Stop at cases with errors, or leave them out and go on."
    )


class FixedSplitsConfig(Section):
    """Splits that are prescribed."""

    fixed: dict[str, Literal["train", "val", "test"]] = Field(
        {},
        description="Source name -> the split of all its patients; overrides what the source "
        "itself defines (BraTS GLI Additional: test; the column of a table).",
    )


class SplitsConfig(FixedSplitsConfig):
    """Patients for validation and test; the rest trains.

    Seeded, by patient and never by case, stratified by source and lesion size.
    """

    val: Fraction = Field(0.1, description="Share of patients for validation.")
    test: Fraction = Field(0.2, description="Share of patients held out for evaluation.")
    seed: NonNegativeInt | None = Field(
        None,
        description="Decides who is in which split; null: the experiment's `seed`. Name it where "
        "trainings with several seeds are compared: they must share their test patients.",
    )

    def faults(self) -> Iterator[Fault]:
        """Yield shares that leave nobody."""
        if self.val + self.test >= 1:
            found = f"val {self.val} + test {self.test} leave no patients for training"
            yield Fault(("val", "test"), found, "lower them to a sum below 1")


class ShownConfig(Section):
    """What of a case is shown."""

    modalities: list[Annotated[str, Field(pattern=r"^[a-z0-9_]+$")]] = Field(
        ["t1c", "t1n", "t2w", "t2f"],
        description="Modalities in tile order (row, grid: 2 to 4; rgb: 3 as red, green, blue; "
        "single: 1). BraTS and MSD have t1c, t1n, t2w and t2f; a case may lack those not shown.",
    )


class MediaConfig(ShownConfig):
    """How a volume becomes a video: one frame per shown axial slice, in LPS orientation."""

    layout: Literal["row", "grid", "rgb", "single"] = Field(
        "row",
        description="Modalities side by side, in a 2x2 grid (its unused tiles black), as colors, "
        "or one alone.",
    )
    window: tuple[float, float] = Field(
        (0.5, 99.5), description="Percentiles inside the brain that become black and white."
    )
    crop_to_brain: bool = Field(
        False, description="Cut away slices, rows and columns without brain."
    )
    stride: Count = Field(1, description="Show every n-th slice.")
    tile_size: tuple[Count, Count] | None = Field(
        None,
        description="(width, height) of a tile in pixels; null: the grid rounded up to "
        "`multiple_of`.",
    )
    multiple_of: Count = Field(
        28,
        description="Sides of a tile are multiples of this, the model's patch x merge, so that its "
        "processor need not resize again: 28 for Qwen2.5-VL, 32 for Qwen3-VL.",
    )
    fps: Annotated[float, Field(gt=0, le=120, multiple_of=0.25)] = Field(
        2.0, description="Frames per second. At 2, Qwen2.5-VL holds two slices per temporal patch."
    )
    codec: Literal["h264", "lossless"] = Field(
        "h264",
        description="Near-lossless H.264 that plays everywhere (layout rgb: where 4:4:4 is "
        "known), or exact H.264 (larger).",
    )
    shard_size: Count = Field(100, description="Cases converted by one job.")

    def faults(self) -> Iterator[Fault]:
        """Yield what has no meaning."""
        if len(set(self.modalities)) < len(self.modalities):
            yield Fault(("modalities",), f"{self.modalities} holds one twice", "take one away")
        if not 0 <= self.window[0] < self.window[1] <= 100:
            remedy = "give two rising percentiles in 0..100"
            yield Fault(("window",), f"{self.window} is no range of percentiles", remedy)
        sides = self.tile_size or ()
        if any(side % self.multiple_of for side in sides):
            found = f"{list(sides)} are no multiples of media.multiple_of, {self.multiple_of}"
            yield Fault(("tile_size", "multiple_of"), found, "change them, or set null")


class RegionConfig(Section):
    """The region that is looked for."""

    region: Literal["WT", "TC", "ET"] = Field(
        "WT", description="Target: whole tumor, tumor core or enhancing tumor."
    )


class TargetConfig(RegionConfig):
    """What is looked for in a volume."""

    min_component_mm3: NonNegative = Field(
        0.0,
        description="Parts of the target connected by voxel faces that are smaller "
        "are ignored as specks; 0 keeps all.",
    )


class TaskConfig(TargetConfig):
    """What is asked of the model."""

    name: Literal["tumor_detection_3d", "chest_xray"] = Field(
        "tumor_detection_3d",
        description="Module in `medtune.tasks`; chest_xray is eight tasks about `films`.",
    )
    chain_of_thought: bool = Field(
        False,
        description="Answer as <think>...</think><answer>...</answer>, conversations excepted; "
        "else the answer alone.",
    )
