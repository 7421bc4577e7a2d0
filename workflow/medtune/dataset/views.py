"""The data set as other trainers load it, each file in the form that its reader expects.

Beside the data set, or in a folder of their own:

llava_<split>.json              LLaVA, LLaMA-Factory (`sharegpt`): conversations and a path
easyr1_<kind>_<split>.parquet   EasyR1: `problem`, `answer`, and `images` or `videos` with paths
segzero_<kind>/                 Seg-Zero and its kin: a `datasets.DatasetDict` with `problem` (what
                                is to be found), `solution` (JSON), and `images` (inside the file,
                                for that loader opens none) or `video_path`

Questions and answers of the first two are those of medtune's own training, in one coordinate
format; Seg-Zero's question and answer form stand in its own code, which reads pixels alone. Paths
are relative to the folder of the views, or of `segzero_video` for what it holds.
"""

import json
import os
import shutil
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any, Protocol

import pyarrow as pa
import pyarrow.parquet as pq

from medtune.config.stages import ViewsStage
from medtune.dataset.mixing import mixed
from medtune.models.coordinate_format import IMAGE_COORDINATE_FORMATS, CoordinateFormat
from medtune.records.sample import HELD, INFER, SPLITS, Media, Rows, Sample, iterate, load_split
from medtune.runtime.console import log
from medtune.runtime.errors import ConfigError, DataError
from medtune.runtime.files import (
    MANIFEST,
    atomic_folder,
    canonical_json,
    check_manifest,
    sync,
    write_manifest,
)
from medtune.tasks import get_task
from medtune.tasks.base import Task

RECORD = f"views.{MANIFEST}"
PATTERNS = ("llava_*.json", "easyr1_*.parquet", "segzero_*")
PLACEHOLDERS = ("<image>", "<video>")
SIDE = 28  # patch x merge of Qwen2.5-VL, which resizes what does not fit
HELD_IMAGES = 32  # rows in memory that hold an image


@dataclass(frozen=True)
class Repeat:
    """How often training samples come: by source or `source/task`, drawn by seed and id."""

    dataset_weights: Mapping[str, float]
    seed: int


@dataclass(frozen=True)
class Asked:
    """A sample as a model family is asked it.

    Attributes:
        sample: The sample.
        media: Its image or video, the path relative to the folder of the views.
        file: Where that is.
        earlier: Questions and answers before, one after the other.
        prompt: The question, with the convention of its coordinates.
        answer: The gold answer; None if it is not known.
    """

    sample: Sample
    media: Media
    file: Path
    earlier: tuple[str, ...]
    prompt: str
    answer: str | None

    @property
    def fits(self) -> bool:
        """Whether Qwen2.5-VL shows the media without resizing them."""
        return self.media.width % SIDE == 0 == self.media.height % SIDE

    @property
    def texts(self) -> list[str]:
        """All of them in their order: the even ones are questions."""
        return [*self.earlier, self.prompt, *([] if self.answer is None else [self.answer])]


class View(Protocol):
    """One of the forms, on its way to disk."""

    def add(self, split: str, asked: Asked) -> None:
        """Take in a sample; only some are held in memory."""

    def close(self) -> None:
        """Write what is left."""


def ask(
    sample: Sample, task: Task, dialect: CoordinateFormat, dataset: Path, there: str = "."
) -> Asked:
    """Return a sample as a model family is asked it in training.

    Args:
        sample: The sample.
        task: Its task.
        dialect: How the family writes coordinates.
        dataset: The data set folder.
        there: The same, relative to the folder of the views.

    Raises:
        DataError: It has not one medium, or a text that loaders would take for another.
    """
    if len(sample.media) != 1:
        found = f"has {len(sample.media)} media, and views hold one"
        raise DataError(sample.id, found, "take its trainer out of `views.trainers`")
    told = task.render_history(sample, dialect)
    path = sample.media[0].path
    asked = Asked(
        sample=sample,
        media=sample.media[0].model_copy(update={"path": os.path.normpath(f"{there}/{path}")}),
        file=dataset / path,
        earlier=tuple(text for turn in told.turns for text in (turn.prompt, turn.target)),
        prompt=task.prompt(sample, dialect),
        answer=None if sample.target is None else task.target(sample, dialect),
    )
    if held := [name for name in PLACEHOLDERS if any(name in text for text in asked.texts)]:
        raise DataError(
            sample.id,
            f"its text holds {held[0]}, where loaders would put an image or video",
            "take it out of the report or conversation",
        )
    return asked


def llava_record(asked: Asked) -> dict[str, Any]:
    """Return a sample in the LLaVA conversation format, its media in the first human turn."""
    turns = [
        {"from": "gpt" if number % 2 else "human", "value": text}
        for number, text in enumerate(asked.texts)
    ]
    kind = asked.media.kind
    turns[0]["value"] = f"<{kind}>\n{turns[0]['value']}"
    return {"id": asked.sample.id, kind: asked.media.path, "conversations": turns}


def easyr1_row(asked: Asked) -> dict[str, Any]:
    """Return the columns that EasyR1 reads, and the id.

    It asks one question: earlier turns stand in its text.
    """
    kind, told = asked.media.kind, list(asked.earlier)
    rounds = zip(told[::2], told[1::2], strict=True)
    before = "".join(f"Question: {question}\nAnswer: {answer}\n" for question, answer in rounds)
    question = f"{before}Question: {asked.prompt}" if before else asked.prompt
    return {
        "id": asked.sample.id,
        "problem": f"<{kind}>{question}",
        "answer": asked.answer,
        f"{kind}s": [asked.media.path],
    }


class Llava:
    """LLaVA JSON: a file per split, a record per line."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._files: dict[str, Any] = {}

    def add(self, split: str, asked: Asked) -> None:
        """Take in a sample."""
        between = ",\n"
        if split not in self._files:
            self._files[split] = (self._folder / f"llava_{split}.json").open("w", encoding="utf-8")
            between = "[\n"
        self._files[split].write(between + json.dumps(llava_record(asked)))

    def close(self) -> None:
        """Write the ends."""
        for file in self._files.values():
            file.write("\n]\n")
            file.close()


class EasyR1:
    """Parquet for EasyR1: a file per split and kind of media, without samples for inference."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._files: dict[tuple[str, str], pq.ParquetWriter] = {}
        self._rows: dict[tuple[str, str], list[dict[str, Any]]] = {}
        self._odd = 0

    def add(self, split: str, asked: Asked) -> None:
        """Take in a sample."""
        if asked.answer is None:
            return
        self._odd += asked.media.kind == "video" and asked.media.frames % 2
        key = (asked.media.kind, split)
        if key not in self._files:
            texts = [(name, pa.string()) for name in ("id", "problem", "answer")]
            schema = pa.schema([*texts, (f"{key[0]}s", pa.list_(pa.string()))])
            path = self._folder / f"easyr1_{key[0]}_{split}.parquet"
            self._files[key], self._rows[key] = pq.ParquetWriter(path, schema), []
        self._rows[key].append(easyr1_row(asked))
        if len(self._rows[key]) == HELD:
            self._flush(key)

    def _flush(self, key: tuple[str, str]) -> None:
        if rows := self._rows[key]:
            self._files[key].write_table(pa.Table.from_pylist(rows, schema=self._files[key].schema))
            rows.clear()

    def close(self) -> None:
        """Write what is left."""
        for key, file in self._files.items():
            self._flush(key)
            file.close()
        if self._odd:
            log(
                f"warning: easyr1: {self._odd} samples have an odd number of frames; its loader "
                "leaves one out, and numbers of frames shift by up to one"
            )


class SegZero:
    """A `DatasetDict` for Seg-Zero and its kin, per kind of media.

    Samples that name nothing to find are left out, and counted.
    """

    def __init__(self, folder: Path, task: Task) -> None:
        self._folder, self._task = folder, task
        self._splits: dict[tuple[str, str], Rows] = {}
        self._left: Counter[str] = Counter()
        self._unfit = 0

    def add(self, split: str, asked: Asked) -> None:
        """Take in a sample."""
        sought = None if asked.answer is None else self._task.sought(asked.sample)
        if sought is None:
            self._left[asked.sample.task] += asked.answer is not None
            return
        kind, media = asked.media.kind, asked.media
        if (kind, split) not in self._splits:
            self._splits[kind, split] = self._rows(kind, split)
        row: dict[str, Any] = {
            "id": asked.sample.id,
            "problem": sought[0],
            "solution": canonical_json(sought[1]),
        }
        if kind == "image":
            content, width, height = _padded(asked)
            inside = {"bytes": content, "path": None}
            row |= {"images": [inside], "img_height": height, "img_width": width}
        else:
            self._unfit += not asked.fits
            # Its loader joins the folder that it was given and this path.
            row |= {"video_path": f"../{media.path}"}
        self._splits[kind, split].add(row)

    def _rows(self, kind: str, split: str) -> Rows:
        from datasets import Features, Image, List, Value

        folder = self._folder / f"segzero_{kind}" / split
        texts = [(name, pa.string()) for name in ("id", "problem", "solution")]
        if kind == "video":
            return Rows(folder, pa.schema([*texts, ("video_path", pa.string())]))
        image = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
        sides = [(name, pa.int64()) for name in ("img_height", "img_width")]
        schema = pa.schema([*texts, ("images", pa.list_(image)), *sides])
        features: dict[str, Any] = {name: Value("string") for name, _ in texts}
        features |= {"images": List(Image())} | {name: Value("int64") for name, _ in sides}
        return Rows(folder, schema, Features(features), HELD_IMAGES)

    def close(self) -> None:
        """Write what is left, and the names of the splits."""
        kinds: dict[str, list[str]] = {}
        for (kind, split), rows in self._splits.items():
            rows.save()
            kinds.setdefault(kind, []).append(split)
        for kind, splits in kinds.items():
            path = self._folder / f"segzero_{kind}/dataset_dict.json"
            path.write_text(canonical_json({"splits": splits}), encoding="utf-8")
        _say_unfit("segzero", self._unfit)
        for task, count in sorted(self._left.items()):
            if count:
                log(f"segzero: {count} samples of {task} name nothing to find: left out")


def _padded(asked: Asked) -> tuple[bytes, int, int]:
    """Return an image file, its width and height; black is added where its sides do not fit."""
    from PIL import Image

    content, width, height = asked.file.read_bytes(), asked.media.width, asked.media.height
    if asked.fits:
        return content, width, height
    width, height = (-(-side // SIDE) * SIDE for side in (width, height))
    with Image.open(asked.file) as image:
        whole = Image.new(image.mode, (width, height))
        whole.paste(image)
    buffer = BytesIO()
    whole.save(buffer, "PNG")
    return buffer.getvalue(), width, height


def _say_unfit(views: str, count: int) -> None:
    if count:
        log(
            f"warning: {views}: media of {count} samples have sides that are no multiples of "
            f"{SIDE}: Qwen2.5-VL resizes them, and boxes in pixels no longer fit (`multiple_of`)"
        )


def write_views(
    stage: ViewsStage, dataset: Path, folder: Path, repeat: Repeat | None = None
) -> None:
    """Write the views of a data set, and their manifest last.

    Args:
        stage: The configuration.
        dataset: The data set folder.
        folder: Where the views go; other files there stay.
        repeat: How often training samples come; None: once.

    Raises:
        DataError: See `ask` and `load_split`; or repeated samples would take the place of those
            that the workflow has written.
        ConfigError: Repetition is wanted, and no weight says how.
    """
    if repeat and not repeat.dataset_weights:
        raise ConfigError(
            "sft.dataset_weights", "is empty: nothing would be repeated", "give weights there"
        )
    if repeat and folder.resolve() == dataset.resolve():
        found = "is the folder of the data set, whose views hold every sample once"
        raise DataError(folder, found, "give another --output for repeated samples")
    check_manifest(dataset / MANIFEST)
    folder.mkdir(parents=True, exist_ok=True)
    task, form = get_task(stage.task), stage.views.format or stage.model.family
    dialect = IMAGE_COORDINATE_FORMATS[form]
    there, unfit = os.path.relpath(dataset, folder), 0
    with atomic_folder(folder / "views") as aside:
        views = _opened(stage, aside, task)
        for split, sample in _samples(dataset, repeat):
            asked = ask(sample, task, dialect, dataset, there)
            unfit += not asked.fits
            for view in views:
                view.add(split, asked)
        for view in views:
            view.close()
    if dialect.relative is None:
        _say_unfit("llava, easyr1", unfit)
    _settle(folder)
    files = [path for one in _views(folder) for path in (one, *one.rglob("*")) if path.is_file()]
    config, often = stage.model_dump(mode="json"), dict(repeat.dataset_weights) if repeat else None
    facts: dict[str, Any] = {"stage": "views", "format": form, "repeated": often}
    write_manifest(folder / RECORD, files, config, [dataset / MANIFEST], **facts)
    log(f"views: {', '.join(one.name for one in _views(folder))} in {folder}")


def _opened(stage: ViewsStage, folder: Path, task: Task) -> list[View]:
    views: dict[str, Callable[[], View]] = {
        "llava": lambda: Llava(folder),
        "easyr1": lambda: EasyR1(folder),
        "segzero": lambda: SegZero(folder, task),
    }
    return [views[name]() for name in stage.views.trainers]


def _samples(dataset: Path, repeat: Repeat | None) -> Iterator[tuple[str, Sample]]:
    """Yield the samples of a data set with their splits."""
    for split in (*SPLITS, INFER):
        if split == INFER and not (dataset / split).is_dir():
            continue
        rows = load_split(dataset, split, allow_empty=True)
        if split == "train" and repeat:
            rows = mixed(rows, repeat.dataset_weights, repeat.seed)
        for sample in iterate(rows):
            yield split, sample


def _views(folder: Path) -> list[Path]:
    return sorted(path for pattern in PATTERNS for path in folder.glob(pattern))


def _settle(folder: Path) -> None:
    """Put what was written aside in the place of earlier views; the manifest follows."""
    (folder / RECORD).unlink(missing_ok=True)
    for earlier in _views(folder):
        shutil.rmtree(earlier) if earlier.is_dir() else earlier.unlink()
    for written in sorted((folder / "views").iterdir()):
        written.replace(folder / written.name)
    (folder / "views").rmdir()
    sync(folder)
