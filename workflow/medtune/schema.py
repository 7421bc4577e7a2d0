"""Sample: the record every source produces and every stage consumes.

A data set folder holds `train/`, `val/` and `test/` (Arrow, for `datasets.load_from_disk`) and,
for other tools, `llava_<split>.json` and `segzero_<split>/`; cases without a mask are in `infer/`.
Media paths are relative to it.
"""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import pyarrow as pa
from pydantic import BaseModel, ConfigDict

from medtune.errors import DataError
from medtune.files import canonical_json, sha256_text, write_text

if TYPE_CHECKING:
    from datasets import Dataset

SPLITS = ("train", "val", "test")
INFER = "infer"  # the split of samples without truth


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
        target: The gold answer in media pixels, or None.
        truth: Ground truth in the media frame (JSON object); empty if it is not known.
        geometry: The transform chain (JSON object of `medtune.geometry.Geometry`).
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


def llava_record(sample: Sample) -> dict[str, Any]:
    """Return a sample in the LLaVA conversation format, its media in the first human turn."""
    media = sample.media[0]
    said = [text for turn in sample.turns for text in (turn.prompt, turn.target)]
    said += [sample.prompt] if sample.target is None else [sample.prompt, sample.target]
    turns = [
        {"from": "gpt" if number % 2 else "human", "value": text}
        for number, text in enumerate(said)
    ]
    turns[0]["value"] = f"<{media.kind}>\n{said[0]}"
    return {"id": sample.id, media.kind: media.path, "conversations": turns}


def segzero_row(sample: Sample) -> dict[str, str]:
    """Return the columns that tools of the Seg-Zero and EasyR1 family read."""
    return {
        "problem": sample.prompt,
        "solution": canonical_json([sample.truth]),
        "video_path": sample.media[0].path,
    }


def _save(table: pa.Table, folder: Path) -> None:
    """Save an Arrow table as a `datasets` folder; equal content gives equal bytes."""
    from datasets import Dataset, disable_progress_bars

    disable_progress_bars()
    fingerprint = sha256_text(canonical_json(table.to_pylist()))[:16]
    Dataset(table, fingerprint=fingerprint).save_to_disk(str(folder), num_shards=1)


def write_dataset(samples: Sequence[Sample], folder: Path) -> None:
    """Write samples as Arrow, LLaVA JSON and Seg-Zero view, one of each per split.

    The split for inference is written only if there are such samples, and without the view.
    """
    for split in (*SPLITS, INFER):
        chosen = [sample for sample in samples if sample.split == split]
        if split == INFER and not chosen:
            continue
        _save(
            pa.Table.from_pylist([to_row(s) for s in chosen], schema=ARROW_SCHEMA), folder / split
        )
        records = [llava_record(sample) for sample in chosen]
        write_text(folder / f"llava_{split}.json", json.dumps(records, indent=1) + "\n")
        if split == INFER:
            continue
        view = pa.schema([(name, pa.string()) for name in ("problem", "solution", "video_path")])
        rows = [segzero_row(sample) for sample in chosen]
        _save(pa.Table.from_pylist(rows, schema=view), folder / f"segzero_{split}")


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
