"""Your own data: a CSV or Parquet table with one row per case.

Columns: case_id, patient_id, one column per modality (the path of an image, relative to the
source's root or absolute), and optionally mask (a path; empty for a case without one), brain_mask
(the path of an image that is not 0 in the brain), split (train, val, test, or empty) and those
that the configuration declares as `groups`. So it does with the label codes of the masks.
"""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from medtune.config.data import TABLE_COLUMNS, SourceConfig, expanded
from medtune.records.case import LABEL_NAMES, Case, Volume
from medtune.records.volume_files import volume_suffix
from medtune.runtime.errors import DataError
from medtune.sources.nearby import likeliest
from medtune.sources.user_table import UserRow, UserTable

NEEDED = ("case_id", "patient_id")
MODALITY = re.compile(r"[a-z0-9_]+")
# What masks are called elsewhere: none of these is a modality.
MASKS = {"mask", "masks", "seg", "segmentation", "label", "labels", "labelmap", "roi"}
# A case id becomes a file name.
CASE_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")
SPLITS = ("train", "val", "test")


@dataclass(frozen=True)
class Table:
    """One table.

    Attributes:
        path: The CSV or Parquet file.
        root: Folder that its paths are relative to.
        labels: Name of every label code.
        groups: Columns that are subgroups of the evaluation.
    """

    path: Path
    root: Path
    labels: dict[int, str]
    groups: tuple[str, ...]

    @classmethod
    def of(cls, config: SourceConfig) -> "Table":
        """Return the table a configuration describes.

        Raises:
            DataError: A label has an unknown name.
        """
        labels = config.labels or {}
        unknown = sorted(set(labels.values()) - LABEL_NAMES)
        if unknown:
            raise DataError(
                f"sources `{config.name}`",
                f"unknown label names {unknown}",
                f"name them by {', '.join(sorted(LABEL_NAMES))}",
            )
        root = Path(config.root)
        path = root / expanded(config.table or "")
        return cls(path, root, {0: "background"} | labels, tuple(config.groups))

    @cached_property
    def _table(self) -> UserTable:
        return UserTable(self.path, (*NEEDED, *self.groups), TABLE_COLUMNS)

    @cached_property
    def _rows(self) -> list[UserRow]:
        return list(self._table.rows())

    @cached_property
    def modalities(self) -> tuple[str, ...]:
        """The columns that hold paths of images, and are no others.

        Raises:
            DataError: The table is missing or damaged, lacks a column, or has one that is neither
                fixed, nor declared, nor of images.
        """
        further = [name for name in self._table.columns if name not in self._fixed]
        for name in further:
            self._check_modality(name, further)
        if self._rows and not any(row.values[name] for row in self._rows for name in further):
            raise DataError(
                self.path,
                f"has the columns {list(self._table.columns)}, none of which holds images",
                "add a column of paths for each modality, such as t1c",
            )
        return tuple(name.lower() for name in further)

    @property
    def _fixed(self) -> tuple[str, ...]:
        return (*TABLE_COLUMNS, *self.groups)

    def _check_modality(self, name: str, further: Sequence[str]) -> None:
        """Check that a column is named like a modality, and holds nothing but paths of images."""
        odd = _first_odd(self._rows, name, self.root)
        if odd is not None:
            near = likeliest(name, set(TABLE_COLUMNS) - set(self._table.columns), alike=0.75)
            rename = f"rename it to `{near}`, " if near else ""
            raise DataError(
                odd.where,
                f"column `{name}` holds {odd.values[name]!r}, which is no image of a modality",
                f"{rename}declare it as `groups: [{', '.join([*self.groups, name])}]` in this "
                "source, remove the column, or correct the path",
            )
        twice = [other for other in further if other.lower() == name.lower()]
        is_mask = not MASKS.isdisjoint(name.lower().split("_"))
        if not MODALITY.fullmatch(name.lower()) or len(twice) > 1 or is_mask:
            raise DataError(
                self.path,
                f"has a column `{name}`, which is no name of a modality",
                "call the segmentation `mask`, a mask of the brain `brain_mask`; remove others"
                if is_mask
                else "use each name once, of letters, digits and _",
            )

    def find(self, config: SourceConfig) -> list[Case]:
        """Return the cases of all rows; see `Source.find`.

        Raises:
            DataError: A row's cells, id or split cannot be used.
        """
        return [self._case(row, config) for row in self._rows]

    def _case(self, row: UserRow, config: SourceConfig) -> Case:
        texts = {
            name.lower() if name not in self._fixed else name: text
            for name, text in row.values.items()
        }
        self._check_row(row.where, texts)
        images = {name: texts[name] for name in self.modalities}
        return Case(
            source=config.name,
            case_id=texts["case_id"],
            patient_id=f"{config.name}:{texts['patient_id']}",
            images={k: Volume(path=self._path(text)) for k, text in images.items() if text},
            mask=self._path(texts.get("mask", "")) or None,
            labels=self.labels,
            split=texts.get("split") or None,
            absent={name: "" for name, text in images.items() if not text},
            brain_mask=self._path(texts.get("brain_mask", "")) or None,
            groups={name: texts[name] for name in self.groups},
            origin=row.where,
        )

    def _path(self, text: str) -> str:
        """Return the path that a cell names; empty for an empty one.

        Windows writes backslashes. They are read as slashes, unless a file has them in its name.
        """
        if not text:
            return ""
        path = self.root / expanded(text)
        if "\\" in text and not path.exists():
            path = self.root / expanded(text.replace("\\", "/"))
        return str(path)

    def _check_row(self, where: str, texts: dict[str, str]) -> None:
        broken = [name for name, text in texts.items() if "\n" in text or "\r" in text]
        if broken:
            raise DataError(
                where,
                f"{', '.join(broken)}: the text goes on over several lines",
                "look for an unpaired quote",
            )
        if not CASE_ID.fullmatch(texts["case_id"]) or not texts["patient_id"]:
            raise DataError(
                where,
                f"case_id {texts['case_id']!r}, patient_id {texts['patient_id']!r}",
                "give both; a case_id holds letters, digits, `_`, `.` and `-`",
            )
        split = texts.get("split")
        if split and split not in SPLITS:
            raise DataError(where, f"split is {split!r}", f"use one of {SPLITS}, or leave it empty")


def _first_odd(rows: Iterable[UserRow], column: str, root: Path) -> UserRow | None:
    """Return the first row whose cell is neither empty, nor named like an image, nor a file."""
    for row in rows:
        text = row.values[column]
        if text and not volume_suffix(text) and not (root / expanded(text)).is_file():
            return row
    return None


def columns_without_images(path: Path, root: Path) -> list[str]:
    """Return the columns of a table of cases that are neither fixed nor of images."""
    table = UserTable(path, NEEDED, TABLE_COLUMNS)
    rows = list(table.rows())
    further = [name for name in table.columns if name not in TABLE_COLUMNS]
    return [name for name in further if _first_odd(rows, name, root)]
