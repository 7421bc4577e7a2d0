"""Your own data: a CSV or Parquet table with one row per case.

Columns: case_id, patient_id, one column per modality (the path of a NIfTI or NRRD file, relative
to the source's root), and optionally mask (a path; empty for a case without one) and split
(train, val, test, or empty). The label codes of the masks are named in the configuration.
"""

import csv
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from medtune.errors import DataError
from medtune.sections import SourceConfig
from medtune.sources.base import LABEL_NAMES, Case, Volume
from medtune.tables import read_rows

NEEDED = ("case_id", "patient_id")
FIXED = (*NEEDED, "mask", "split")
# A case id becomes a file name.
CASE_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")
SPLITS = ("train", "val", "test")


@dataclass(frozen=True)
class Table:
    """One table.

    Attributes:
        path: The CSV or Parquet file.
        labels: Name of every label code.
    """

    path: Path
    labels: dict[int, str]

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
        return cls(Path(config.root) / (config.table or ""), {0: "background"} | labels)

    @property
    def modalities(self) -> tuple[str, ...]:
        """The columns that are no fixed ones.

        Raises:
            DataError: The table is missing or lacks a column.
        """
        columns = self._columns()
        missing = [name for name in NEEDED if name not in columns]
        modalities = tuple(name for name in columns if name not in FIXED)
        if missing or not modalities:
            raise DataError(
                self.path,
                f"has the columns {columns}, expected {', '.join(NEEDED)} and one per modality",
                "add the missing columns",
            )
        return modalities

    def _columns(self) -> list[str]:
        if not self.path.is_file():
            raise DataError(self.path, "the table does not exist", "correct `sources[].table`")
        if self.path.suffix == ".parquet":
            names: list[str] = pq.read_schema(self.path).names
            return names
        with self.path.open(encoding="utf-8-sig", newline="") as file:
            return next(csv.reader(file), [])

    def _rows(self) -> list[dict[str, Any]]:
        if self.path.suffix == ".parquet":
            return read_rows(self.path)
        with self.path.open(encoding="utf-8-sig", newline="") as file:
            return list(csv.DictReader(file))

    def find(self, config: SourceConfig) -> list[Case]:
        """Return the cases of all rows; see `Source.find`.

        Raises:
            DataError: A row's id or split cannot be used.
        """
        modalities = self.modalities
        return [
            self._case(number, row, config, modalities)
            for number, row in enumerate(self._rows(), start=1)
        ]

    def _case(
        self, number: int, row: dict[str, Any], config: SourceConfig, modalities: tuple[str, ...]
    ) -> Case:
        values = {key: "" if value is None else str(value).strip() for key, value in row.items()}
        where = f"{self.path}, row {number}"
        if not CASE_ID.fullmatch(values["case_id"]) or not values["patient_id"]:
            raise DataError(
                where,
                f"case_id {values['case_id']!r}, patient_id {values['patient_id']!r}",
                "give both; a case_id holds letters, digits, `_`, `.` and `-`",
            )
        split = values.get("split") or None
        if split not in (None, *SPLITS):
            raise DataError(where, f"split is {split!r}", f"use one of {SPLITS}, or leave it empty")
        root = Path(config.root)
        images = {
            name: Volume(path=str(root / values[name])) for name in modalities if values[name]
        }
        mask = values.get("mask")
        return Case(
            source=config.name,
            case_id=values["case_id"],
            patient_id=f"{config.name}:{values['patient_id']}",
            images=images,
            mask=str(root / mask) if mask else None,
            labels=self.labels,
            split=split,
        )
