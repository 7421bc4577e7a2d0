"""Your own films: a CSV or Parquet table with one row per image, and perhaps one of boxes.

Columns of the first: image (a path relative to the root) and patient; where there are any: study,
split (train, val, test), view, sex, report (its text, or the path of a `.txt` file) or its sections
(findings, impression, ...), a column for each label (1 present, 0 absent, -1 uncertain, or empty:
nobody says), and those that the configuration names. Columns of the second: see `user_boxes`.
"""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from sqlite3 import Row
from typing import Any, Literal

from medtune.config.chest_sources import ChestSourceConfig
from medtune.records.film import Film, LabelState
from medtune.runtime.errors import DataError
from medtune.sources.chest.image_files import SEXES, film_header, stem
from medtune.sources.chest.issues import Issues
from medtune.sources.chest.labels import (
    DEVICES,
    LABELS,
    NO_FINDING,
    LabelError,
    film_labels,
    read_labels,
)
from medtune.sources.chest.report_sections import read_report
from medtune.sources.chest.sql_tables import Tables
from medtune.sources.chest.user_boxes import (
    BOX_COLUMNS,
    BOX_KINDS,
    BoxTable,
    RowError,
    plain_path,
)
from medtune.sources.nearby import likeliest, whats_there
from medtune.sources.user_table import UserTable

NEEDED = ("image", "patient")
SECTIONS = ("findings", "impression", "last_paragraph", "indication", "comparison")
ABOUT = ("study", "split", "view", "sex", "report", *SECTIONS)
JUDGED = (*LABELS, NO_FINDING)
SPLITS: dict[str, Literal["train", "val", "test"]] = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("val", "valid", "validate", "validation", "dev"), "val"),
    "test": "test",
}
SEX = {name.lower(): sex for name, sex in SEXES.items()}
# What a label may also be called in a cell; Parquet knows true and false.
SAID = {"present": "1", "true": "1", "absent": "0", "false": "0", "uncertain": "-1"}
LABEL_VALUES = {"1", "0", "-1", "1.0", "0.0", "-1.0", "", *SAID}
Cells = Mapping[str, str]


def films(config: ChestSourceConfig, findings: Issues) -> Iterator[Film]:
    """Yield the films of a table, by patient, study and image.

    Errors of a film: id-duplicate (rows that differ), path-outside, split-unknown, sex-unknown,
    label-unknown, labels-contradict (a box beside "No Finding"), report-missing,
    report-unreadable, report-contradicts (films of one study), image-unreadable, box-unreadable;
    of a row: row-invalid, id-unmatched (a box of no image). Warnings: labels-contradict,
    report-empty; of the source: column-unused.

    Raises:
        DataError: A table is missing or damaged, a column is missing, holds labels under an unknown
            name, or is named in the configuration and not there, or boxes are fractions.
    """
    yield from _UserFilms(config, findings).films()


class _UserFilms:
    """The tables of a source, in a database; rows keep the lines they stand on."""

    def __init__(self, config: ChestSourceConfig, findings: Issues) -> None:
        self.config, self.findings, self.root = config, findings, Path(config.root)
        self.tables = Tables(config.name, findings)
        known = (*ABOUT, *JUDGED, *BOX_COLUMNS, *config.label_columns, *config.groups)
        table = UserTable(self.root / (config.table or ""), NEEDED, known)
        self.labels = _label_columns(config, table)
        self.asked = {label for label in self.labels if label != NO_FINDING}
        drawn = config.boxes is None and any(name in table.columns for name in BOX_KINDS)
        self.tables.fill("films", ("image",), ("cells", "line"), self._rows(table, drawn))
        self.tables.index("films", "image")
        if config.boxes is not None:
            table, drawn = UserTable(self.root / config.boxes, ("image",), BOX_COLUMNS), True
        self.boxes = BoxTable(table, self.tables, self.root) if drawn else None
        self._report_of_study: tuple[str, dict[str, str]] = ("", {})

    def _rows(self, table: UserTable, drawn: bool) -> Iterator[tuple[str, str, str]]:
        """Yield path, cells as JSON and place of each row, and check columns that are not known."""
        read = (*NEEDED, *ABOUT, *self.labels.values(), *self.config.groups)
        used = {*read, *(BOX_COLUMNS if drawn else ())}
        unused: dict[str, set[str]] = {name: set() for name in table.columns if name not in used}
        for row in table.rows():
            for name, values in unused.items():
                if len(values) <= len(LABEL_VALUES):
                    values.add(row.values[name].lower())
            image, patient = row.values["image"], row.values["patient"]
            if image and patient:
                cells = {name: row.values[name] for name in read if row.values.get(name)}
                yield plain_path(image, self.root), json.dumps(cells), row.where
            else:
                found = f"image {image!r}, patient {patient!r}"
                self.findings.report("row-invalid", row.where, found, "both", "complete the row")
        for name, values in unused.items():
            self._check_unused(table, name, values)

    def _check_unused(self, table: UserTable, name: str, values: set[str]) -> None:
        match = likeliest(name, [one for one in (*JUDGED, *ABOUT) if one not in table.columns])
        hint = f"did you mean `{match}`? " if match else ""
        if values - {""} and values <= LABEL_VALUES:
            raise DataError(
                table.path,
                f"column `{name}` holds labels (1, 0, -1), and {name!r} is none of {list(JUDGED)}",
                f"{hint}rename it, map it in `label_columns`, or name it in `groups`",
            )
        self.findings.warn(
            "column-unused",
            self.config.name,
            f"column `{name}`",
            "a column that is known, or one of `groups`",
            f"{hint}nothing (it is not read)",
        )

    def films(self) -> Iterator[Film]:
        """Yield the films."""
        rows = self.tables.query(
            """SELECT image, min(line) AS line, min(cells) AS cells, count(DISTINCT cells) AS kinds,
            json_extract(cells, '$.patient') AS patient, json_extract(cells, '$.study') AS study
            FROM films GROUP BY image ORDER BY patient, study, image"""
        )
        for row in rows:
            case = f"{self.config.name}/{image_id(row['image'])}"
            try:
                film = self._film(row, case)
            except RowError as error:
                found = f"{row['line']}: {error.found}"
                self.findings.report(error.code, case, found, error.expected, "correct the row")
                continue
            if film is not None and self._is_wanted(film.view):
                yield film
            elif film is not None:
                self.findings.set_aside(self.config.name, film.path, film.view)

    def _is_wanted(self, view: str | None) -> bool:
        """Return whether a view is among those that are kept; one that nobody tells is."""
        wanted = [one.upper() for one in self.config.views]
        return not wanted or view is None or view in wanted

    def _film(self, row: Row, case: str) -> Film | None:
        """Return the film of a row; None: its image cannot be read, which has been reported.

        Raises:
            RowError: The row cannot be used.
        """
        path, cells, config = row["image"], json.loads(row["cells"]), self.config
        if path.startswith("/") or ".." in Path(path).parts:
            raise RowError("path-outside", path, f"a path below {self.root}")
        if row["kinds"] > 1:
            raise RowError("id-duplicate", f"rows of {path} that differ", "one row")
        labels, no_finding = self._labels(cells, case)
        regions, nothing = self.boxes.of(path) if self.boxes else ((), False)
        if no_finding and any(one.kind == "abnormality" for one in regions):
            raise RowError("labels-contradict", f"`{NO_FINDING}` beside a box", "one or the other")
        header = self._header(path, case)
        if header is None:
            return None
        patient, image = cells["patient"], image_id(path)
        study = f"{patient}_{cells['study']}" if "study" in cells else image
        return Film(
            source=config.name,
            image_id=image,
            study_id=study,
            patient_id=f"{config.cohort or config.name}/{patient}",
            split=_meant(cells, "split", SPLITS),
            path=path,
            view=cells.get("view", "").upper() or None,
            sex=_meant(cells, "sex", SEX),
            labels=labels,
            no_finding=True if nothing and no_finding is None else no_finding,
            report=self._same_report(study, self._report(cells, case)),
            regions=regions,
            listed=not set(LABELS) - {DEVICES} <= self.asked,
            groups={name: cells.get(name, "") for name in config.groups},
            **header,
        )

    def _labels(self, cells: Cells, case: str) -> tuple[dict[str, LabelState], bool | None]:
        said = {label: cells.get(column, "") for label, column in self.labels.items()}
        said = {label: SAID.get(value.lower(), value) for label, value in said.items()}
        try:
            read_labels(said, self.config.labels)
        except LabelError as error:
            raise RowError("label-unknown", str(error), "1, 0, -1 or nothing") from None
        labels, no_finding = film_labels(said, self.config.labels, case, self.findings) or (
            {},
            None,
        )
        # Of a table of few labels a normal film is asked for the same ones as others.
        return {name: one for name, one in labels.items() if name in self.asked}, no_finding

    def _same_report(self, study: str, report: dict[str, str]) -> dict[str, str]:
        """Return a report, after checking that films of one study, one after another, share it.

        Raises:
            RowError: They do not.
        """
        if report and self._report_of_study[0] == study and self._report_of_study[1] != report:
            raise RowError("report-contradicts", "another report", f"one of study {study}")
        if report:
            self._report_of_study = (study, report)
        return report

    def _report(self, cells: Cells, case: str) -> dict[str, str]:
        """Return the sections of a report: those that have columns, else those of its text."""
        sections = {name: " ".join(cells[name].split()) for name in SECTIONS if name in cells}
        text = cells.get("report", "")
        if sections or not text:
            return sections
        if text.lower().endswith(".txt") and "\n" not in text:
            path = self.root / text
            try:
                text = path.read_text(encoding="utf-8-sig")
            except FileNotFoundError:
                raise RowError("report-missing", whats_there(path), "the report's file") from None
            except (OSError, UnicodeDecodeError) as error:
                found = f"{path}: {error}"
                raise RowError("report-unreadable", found, "a text in UTF-8") from None
        read = read_report(text)
        if not read.sections:
            code = "report-doubtful" if read.doubt else "report-empty"
            found = read.doubt or "no section"
            self.findings.warn(code, case, found, "a report", "nothing (it has none)")
        return read.sections

    def _header(self, path: str, case: str) -> dict[str, Any] | None:
        """Return the size of an image, which a table with boxes needs of all; None: unreadable."""
        header = film_header(self.root / path, case, self.findings) if self.boxes else {}
        return header and {key: header[key] for key in ("width", "height")}


def _label_columns(config: ChestSourceConfig, table: UserTable) -> dict[str, str]:
    """Return label -> its column.

    Raises:
        DataError: The configuration names an unknown label, or a column that is not there.
    """
    for label in config.label_columns.values():
        if label not in JUDGED:
            match = likeliest(label, JUDGED)
            raise DataError(
                f"source {config.name}",
                f"`label_columns` names {label!r}, which is none of the labels",
                f"did you mean {match!r}?" if match else f"take one of {', '.join(JUDGED)}",
            )
    missing = [
        name for name in (*config.label_columns, *config.groups) if name not in table.columns
    ]
    if missing:
        raise DataError(
            table.path,
            f"lacks the columns {missing}; it has {list(table.columns)}",
            "correct `label_columns` and `groups`",
        )
    given = {label: column for column, label in config.label_columns.items()}
    return {label: label for label in JUDGED if label in table.columns} | given


def image_id(path: str) -> str:
    """Return the name of a film: its path without suffix, `_` for `/`."""
    return stem(path).replace("/", "_")


def _meant(cells: Cells, column: str, names: Mapping[str, Any]) -> Any:
    """Return what a cell means, or None if it is empty.

    Raises:
        RowError: It means nothing.
    """
    said = cells.get(column, "")
    if said and said.lower() not in names:
        raise RowError(f"{column}-unknown", f"{column} {said!r}", f"one of {sorted(names)}")
    return names.get(said.lower())
