"""Your own data: a CSV or Parquet table with one row per case.

Columns: case_id, patient_id, one column per modality (the path of a NIfTI or NRRD file, relative
to the source's root), and optionally mask (a path; empty for a case without one) and split
(train, val, test, or empty). The label codes of the masks are named in the configuration.
"""

import csv
import itertools
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from medtune.errors import DataError
from medtune.sections.data import SourceConfig
from medtune.sources.base import LABEL_NAMES, Case, Volume
from medtune.tables import read_rows

NEEDED = ("case_id", "patient_id")
FIXED = (*NEEDED, "mask", "split")
MODALITY = re.compile(r"[a-z0-9_]+")
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
            DataError: The table is missing, damaged, or lacks a column.
        """
        return self._modalities(list(self._rows(limit=0)[0]))

    def _modalities(self, columns: list[str]) -> tuple[str, ...]:
        missing = [name for name in NEEDED if name not in columns]
        modalities = tuple(name for name in columns if name not in FIXED)
        odd = [name for name in modalities if not MODALITY.fullmatch(name)]
        twice = sorted({name for name in columns if columns.count(name) > 1})
        if missing or odd or twice or not modalities:
            raise DataError(
                self.path,
                f"has the columns {columns}, expected {', '.join(NEEDED)}, one per modality (small "
                "letters, digits and _) and perhaps mask and split, each once",
                "correct the first line",
            )
        return modalities

    def _rows(self, limit: int | None = None) -> tuple[list[str], list[list[Any]]]:
        """Return the columns, and the cells of the rows (of the first `limit`)."""
        if not self.path.is_file():
            raise DataError(self.path, "the table does not exist", "correct `sources[].table`")
        if self.path.suffix == ".parquet":
            rows = read_rows(self.path)
            names = list(rows[0]) if rows else []
            return names, [list(row.values()) for row in rows]
        try:
            with self.path.open(encoding="utf-8-sig", newline="") as file:
                reader = csv.reader(file, strict=True)
                names = next(reader, [])
                return names, list(itertools.islice(reader, limit))
        except (csv.Error, UnicodeDecodeError) as error:
            raise DataError(
                self.path, f"is no CSV table ({error})", "save it as CSV in UTF-8"
            ) from None

    def find(self, config: SourceConfig) -> list[Case]:
        """Return the cases of all rows; see `Source.find`.

        Raises:
            DataError: A row's cells, id or split cannot be used.
        """
        columns, rows = self._rows()
        modalities = self._modalities(columns)
        cases = []
        for number, cells in enumerate(rows, start=1):
            texts = [_text(cell) for cell in cells]
            if len(texts) != len(columns) or any("\n" in text for text in texts):
                raise DataError(
                    f"{self.path}, row {number}",
                    f"has {len(texts)} cells, expected {len(columns)}, each on one line",
                    "look for commas and quotes in the row",
                )
            values = dict(zip(columns, texts, strict=True))
            cases.append(self._case(number, values, config, modalities))
        return cases

    def _case(
        self, number: int, values: dict[str, str], config: SourceConfig, modalities: tuple[str, ...]
    ) -> Case:
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


def _text(cell: Any) -> str:
    """Return a cell as text; a missing value, which pandas stores as NaN, is empty."""
    return "" if cell is None or cell != cell else str(cell).strip()  # noqa: PLR0124 - NaN
