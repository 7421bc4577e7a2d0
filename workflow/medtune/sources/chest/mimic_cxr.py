"""MIMIC-CXR-JPG: films, labels of the CheXpert labeler, and the raw reports of MIMIC-CXR.

Tables `mimic-cxr-2.0.0-{metadata,split,chexpert}.csv[.gz]`; films
`files/p10/p10000032/s50414267/<dicom_id>.jpg`; reports, in a folder of their own,
`files/p10/p10000032/s50414267.txt`, or a table of their sections. The set does not tell the
patient's sex.
"""

from collections.abc import Iterator
from pathlib import Path
from sqlite3 import Row

from medtune.config.chest_sources import ChestSourceConfig
from medtune.records.film import Film
from medtune.sources.chest.headers import FINDINGS, IMPRESSION
from medtune.sources.chest.issues import Issues
from medtune.sources.chest.labels import LABELS, NO_FINDING, film_labels
from medtune.sources.chest.report_sections import LAST, ORDER, read_report
from medtune.sources.chest.sql_tables import Tables, find_table

SPLITS = {"train": "train", "validate": "val", "test": "test"}
STUDY = ("subject_id", "study_id")
IMAGE = (*STUDY, "dicom_id")


def films(config: ChestSourceConfig, findings: Issues) -> Iterator[Film]:
    """Yield the films of MIMIC-CXR-JPG, by patient, study and image.

    Errors of a film: id-unmatched, split-unknown, label-unknown. Warnings: labels-missing,
    labels-contradict, report-missing, report-unreadable, report-empty, report-doubtful.

    Raises:
        DataError: A table or column is missing.
    """
    mimic = Mimic(config, Path(config.root), findings)
    mimic.tables.check_join("split", "metadata", IMAGE)
    mimic.tables.check_join("chexpert", "metadata", STUDY)
    yield from mimic.films()


class Mimic:
    """The tables of MIMIC-CXR-JPG, for it and for the sets about its films.

    Args:
        config: The source that asks.
        root: Folder of MIMIC-CXR-JPG.
        findings: Where findings go.
    """

    def __init__(self, config: ChestSourceConfig, root: Path, findings: Issues) -> None:
        self.config, self.findings = config, findings
        self.tables = Tables(config.name, findings)
        self._load(root, "metadata", IMAGE, ("ViewPosition", "Rows", "Columns"))
        self._load(root, "split", IMAGE, ("split",))
        self._load(root, "chexpert", STUDY, (*LABELS, NO_FINDING))
        # The sets about its films name the image alone.
        self.tables.database.execute("CREATE INDEX image ON metadata (dicom_id)")
        self._report: tuple[str, dict[str, str]] = ("", {})
        self._table = config.reports is not None and Path(config.reports).is_file()
        if self._table:
            self._load_reports(Path(config.reports or ""))

    def _load(self, root: Path, name: str, key: tuple[str, ...], columns: tuple[str, ...]) -> None:
        self.tables.load(name, find_table(root, f"mimic-cxr-2.0.0-{name}"), key, columns)
        self.tables.drop_duplicates(name, key)

    def _load_reports(self, path: Path) -> None:
        """Load a table of sections: that of `mimic-cxr`'s own script, or a copy of it."""
        sections = (FINDINGS, IMPRESSION)
        # Written as s50414267 or 50414267, and a study may be missing.
        self.tables.load("written", path, ("study",), sections, (LAST,))
        rows = self.tables.query("SELECT ltrim(lower(study), 's') AS id, * FROM written")
        given = ((row["id"], *(row[name] for name in ORDER)) for row in rows)
        self.tables.fill("reports", ("study_id",), ORDER, list(given))
        self.tables.drop_duplicates("reports", ("study_id",))
        known = "SELECT study_id FROM metadata"
        unknown = f"SELECT count(*) AS n FROM reports WHERE study_id NOT IN ({known})"  # noqa: S608
        count = next(self.tables.query(unknown))["n"]
        if count:
            self.findings.warn(
                "report-unmatched",
                self.config.name,
                f"{path.name}: {count} reports of studies that the set does not have",
                "reports of this release",
                "nothing (they are not used)",
            )

    def films(self, among: str | None = None) -> Iterator[Film]:
        """Yield all films, or those whose `dicom_id` is in the table `among`."""
        chosen = f"WHERE m.dicom_id IN (SELECT dicom_id FROM {among})" if among else ""  # noqa: S608
        rows = self.tables.query(
            f"""SELECT m.*, s.split, c.rowid AS judged, c.* FROM metadata m
            LEFT JOIN split s USING (subject_id, study_id, dicom_id)
            LEFT JOIN chexpert c USING (subject_id, study_id)
            {chosen} ORDER BY m.subject_id, m.study_id, m.dicom_id"""  # noqa: S608
        )
        for row in rows:
            if self.config.views and row["ViewPosition"] not in self.config.views:
                self.findings.set_aside(self.config.name, _path(row), row["ViewPosition"])
                continue
            film = self._film(row)
            if film is not None:
                yield film

    def _film(self, row: Row) -> Film | None:
        subject, study, image = row["subject_id"], row["study_id"], row["dicom_id"]
        case = f"{self.config.name}/{image}"
        if row["split"] not in SPLITS:
            code = "id-unmatched" if row["split"] is None else "split-unknown"
            found = f"its split is {row['split']}"
            self.findings.report(code, case, found, f"one of {list(SPLITS)}", "correct `split`")
            return None
        if row["judged"] is None:
            self.findings.warn(
                "labels-missing", case, "no row in `chexpert`", "one", "nothing (all are unknown)"
            )
        where = f"in line {row['chexpert_line']} of mimic-cxr-2.0.0-chexpert.csv"
        judged = film_labels(dict(row), self.config.labels, case, self.findings, where)
        if judged is None:
            return None
        return Film(
            source=self.config.name,
            image_id=image,
            study_id=f"s{study}",
            patient_id=f"mimic/p{subject}",
            split=SPLITS[row["split"]],
            path=_path(row),
            view=row["ViewPosition"] or None,
            width=_pixels(row["Columns"]),
            height=_pixels(row["Rows"]),
            labels=judged[0],
            no_finding=judged[1],
            report=self._sections(f"{_folder(row)}.txt", study, case),
        )

    def _sections(self, name: str, study: str, case: str) -> dict[str, str]:
        """Return the sections of a report; films of one study follow each other."""
        if self.config.reports is None:
            return {}
        if self._report[0] != name:
            path = Path(self.config.reports) / name
            read = self._look_up(study, case) if self._table else self._read(path, case)
            self._report = (name, read)
        return self._report[1]

    def _look_up(self, study: str, case: str) -> dict[str, str]:
        row = next(self.tables.query("SELECT * FROM reports WHERE study_id = ?", study), None)
        said = {name: " ".join(row[name].split()) for name in ORDER} if row else {}
        said = {name: text for name, text in said.items() if text}
        if not said:
            code = "report-empty" if row else "report-missing"
            self.findings.warn(code, case, f"s{study}", "a report", "nothing (it has none)")
        return said

    def _read(self, path: Path, case: str) -> dict[str, str]:
        try:
            report = read_report(path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            code, found = "report-missing", f"no file {path.name}"
        except UnicodeDecodeError as error:
            code, found = "report-unreadable", f"{path.name}: {error}"
        else:
            if report.sections:
                return report.sections
            empty = "has no words in findings, impression or last paragraph"
            code = "report-doubtful" if report.doubt else "report-empty"
            found = f"{path.name}: {report.doubt or empty}"
        self.findings.warn(code, case, found, "a report", "nothing (it has none)")
        return {}


def _folder(row: Row) -> str:
    subject = row["subject_id"]
    return f"files/p{subject[:2]}/p{subject}/s{row['study_id']}"


def _path(row: Row) -> str:
    return f"{_folder(row)}/{row['dicom_id']}.jpg"


def _pixels(text: str) -> int | None:
    return int(text) if text.isdecimal() else None
