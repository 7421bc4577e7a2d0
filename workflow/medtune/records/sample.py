"""Sample: the record every source produces and every stage consumes.

A data set folder holds `train/`, `val/` and `test/` (Arrow, for `datasets.load_from_disk`); cases
without a mask are in `infer/`. Media paths are relative to it. What other trainers load is written
beside, by `medtune.dataset.views`.
"""

import json
import math
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import pyarrow as pa
from pydantic import BaseModel, ConfigDict

from medtune.records.special_tokens import TextCheck
from medtune.runtime.errors import DataError
from medtune.runtime.files import canonical_json, sha256

if TYPE_CHECKING:
    from datasets import Dataset

SPLITS = ("train", "val", "test")
INFER = "infer"  # the split of samples without truth
HELD = 1000  # rows in memory while a data set is written


class Media(BaseModel):
    """A video or image of a sample; `fps` is 0 for an image."""

    model_config = ConfigDict(frozen=True)

    kind: Literal["video", "image"]
    path: str
    width: int
    height: int
    frames: int
    fps: float
    sha256: str


def checked(media: Media) -> Media:
    """Return the record of an image or video that can be shown.

    Raises:
        DataError: It has no pixels, a video no rate, or an image several frames.
    """
    shape = f"{media.frames} frames of {media.width} x {media.height} pixels"
    if min(media.frames, media.width, media.height) < 1:
        fault = f"has {shape}: there is nothing to show"
    elif media.kind == "video" and not 0 < media.fps < math.inf:
        fault = f"is a video of {media.fps} frames per second, expected a positive rate"
    elif media.kind == "image" and media.frames != 1:
        fault = f"is an image of {shape}, expected one frame"
    else:
        return media
    raise DataError(media.path, fault, "correct the data set's record, or leave the sample out")


class Turn(BaseModel):
    """A question and its answer, earlier in a conversation."""

    model_config = ConfigDict(frozen=True)

    prompt: str
    target: str


class Sample(BaseModel):
    """One question about one or more media, with its truth.

    Attributes:
        id: `<source>/<case>/<task>[/<n>]`, stable across runs and machines.
        source: Name of the source.
        case_id: Name of the examination in its source.
        patient_id: The split unit.
        split: train, val or test; infer for samples without truth.
        task: Module in `medtune.tasks`.
        media: The media, with paths relative to the data set folder.
        turns: What was asked and answered before, about the same media; the answers are learned
            from like `target`.
        prompt: The question, without media placeholders and without a coordinate convention.
        target: The gold answer with its boxes in media pixels, or None; `Task.target` writes it for
            a model family.
        truth: Ground truth in the media frame (JSON object); empty if it is not known.
        geometry: The transform chain (JSON object of `medtune.geometry.volume.Geometry`).
        meta: Anything else worth keeping (JSON object).
    """

    model_config = ConfigDict(frozen=True)

    id: str
    source: str
    case_id: str
    patient_id: str
    split: Literal["train", "val", "test", "infer"]
    task: str
    media: list[Media]
    turns: tuple[Turn, ...] = ()
    prompt: str
    target: str | None
    truth: dict[str, Any]
    geometry: dict[str, Any]
    meta: dict[str, Any]


_MEDIA = pa.struct(
    [
        ("kind", pa.string()),
        ("path", pa.string()),
        ("width", pa.int32()),
        ("height", pa.int32()),
        ("frames", pa.int32()),
        ("fps", pa.float64()),
        ("sha256", pa.string()),
    ]
)
# What is asked and answered, now or by a task that writes it of the truth.
TEXTS = ("turns", "prompt", "target", "truth")
_JSON_COLUMNS = ("turns", "truth", "geometry", "meta")
ARROW_SCHEMA = pa.schema(
    [(name, pa.list_(_MEDIA) if name == "media" else pa.string()) for name in Sample.model_fields]
)


def to_row(sample: Sample) -> dict[str, Any]:
    """Return a sample as an Arrow row: structured columns become canonical JSON text."""
    row = sample.model_dump()
    return row | {name: canonical_json(row[name]) for name in _JSON_COLUMNS}


def from_row(row: dict[str, Any]) -> Sample:
    """Return the sample of an Arrow row."""
    return Sample(**row | {name: json.loads(row[name]) for name in _JSON_COLUMNS})


class Rows:
    """Rows on their way into a `datasets` folder; equal rows give equal bytes.

    Args:
        folder: The folder.
        schema: Columns and types.
        features: What `datasets` makes of them, where it is not plain values.
        held: Rows in memory.
    """

    def __init__(
        self, folder: Path, schema: pa.Schema, features: Any = None, held: int = HELD
    ) -> None:
        self.folder, self.schema, self.features, self.held = folder, schema, features, held
        folder.parent.mkdir(parents=True, exist_ok=True)
        self._path = folder.with_name(f".{folder.name}.arrow")
        self._writer = pa.ipc.new_stream(str(self._path), schema)
        self._rows: list[dict[str, Any]] = []

    def add(self, row: dict[str, Any]) -> None:
        """Take in a row; only some are held in memory."""
        self._rows.append(row)
        if len(self._rows) == self.held:
            self._flush()

    def _flush(self) -> None:
        if self._rows:
            self._writer.write_table(pa.Table.from_pylist(self._rows, schema=self.schema))
            self._rows.clear()

    def save(self) -> None:
        """Write the folder: that of an empty data set, with the rows for its file."""
        from datasets import Dataset, DatasetInfo, disable_progress_bars

        disable_progress_bars()
        self._flush()
        self._writer.close()
        info = DatasetInfo(features=self.features)
        name = sha256(self._path)[:16]
        whole = Dataset(self.schema.empty_table(), info=info, fingerprint=name)
        whole.save_to_disk(str(self.folder), num_shards=1)
        self._path.replace(next(self.folder.glob("*.arrow")))


def write_dataset(samples: Iterable[Sample], folder: Path) -> None:
    """Write samples as Arrow, a folder per split.

    The split for inference is written only if there are such samples. The samples are not held in
    memory.

    Args:
        samples: The samples, in the order of the result.
        folder: An empty folder.

    Raises:
        DataError: Texts hold special tokens of models; all samples are seen before.
    """
    folder.mkdir(parents=True, exist_ok=True)
    splits = {split: Rows(folder / split, ARROW_SCHEMA) for split in SPLITS}
    check = TextCheck()
    for sample in samples:
        if sample.split not in splits:
            splits[sample.split] = Rows(folder / sample.split, ARROW_SCHEMA)
        row = to_row(sample)
        check.see(sample.id, (row[name] for name in TEXTS))
        splits[sample.split].add(row)
    check.end()
    for split in splits.values():
        split.save()


def load_split(folder: Path, split: str, allow_empty: bool = False) -> "Dataset":
    """Return one split as a memory-mapped `datasets.Dataset`.

    Raises:
        DataError: The split does not exist, lacks columns, or is empty and may not be.
    """
    from datasets import Dataset, load_from_disk

    path = folder / split
    if not path.is_dir():
        raise DataError(path, "there is no such data set", "run `snakemake prepare`")
    dataset = load_from_disk(str(path))
    assert isinstance(dataset, Dataset)
    missing = sorted(set(ARROW_SCHEMA.names) - set(dataset.column_names))
    if missing:
        raise DataError(
            path,
            f"has no columns {missing}: another version wrote it",
            "run `snakemake -R annotate`",
        )
    if len(dataset) == 0 and not allow_empty:
        raise DataError(path, "the split is empty", "add cases or change `splits`")
    return dataset


def iterate(dataset: "Dataset") -> Iterator[Sample]:
    """Yield the samples of a data set."""
    for row in dataset:
        yield from_row(dict(row))
