"""Open-i (Indiana University chest X-rays): films with reports and the tags of their findings.

Reports as NLM publishes them, XML files in `ecgen-radiology/` or in the root; or Kaggle's
`indiana_reports.csv`. Which films are frontal says `indiana_projections.csv`, or the header of a
DICOM film; the XML does not. Films in any folder below the root: `CXR1_1_IM-0001-3001.png`,
`1_IM-0001-3001.dcm` and `1_IM-0001-4001.dcm.png` name one alike.

A report is one patient's. Tags (MeSH) were set by people who read the report: `SAME` says which
have a counterpart among the 13 labels; others are left out, with a count of each. A tag that a
report does not have was not mentioned: see `labels.blank`. Words that were taken out of reports
read `XXXX`.
"""

import json
import re
import xml.etree.ElementTree as ET
from collections.abc import Iterator
from pathlib import Path
from sqlite3 import Row

from medtune.config.chest_sources import ChestSourceConfig
from medtune.records.film import Film
from medtune.runtime.errors import DataError
from medtune.sources.chest.image_files import fill_files, film_header, stem
from medtune.sources.chest.issues import Issues
from medtune.sources.chest.labels import film_labels
from medtune.sources.chest.own_labels import OwnLabels
from medtune.sources.chest.sql_tables import Tables, find_table

UID, IMAGE = ("uid",), ("image",)
SECTIONS = ("findings", "impression", "indication", "comparison")
NAME = re.compile(r"(?:CXR(?:\d+_(?=\d+_IM))?)?(?P<name>(?P<uid>\d+)_IM-.+)")
BREAK = re.compile(r"<br\s*/?>", re.IGNORECASE)  # some stand in the plain text
OPACITY, DEVICES = ("Lung Opacity",), ("Support Devices",)
# First word of a tag -> labels; where a part of the body is named, only of that part.
SAME = {
    "pulmonary atelectasis": ("Atelectasis",),
    "cardiomegaly": ("Cardiomegaly",),
    "consolidation": ("Consolidation",),
    "pulmonary edema": ("Edema",),
    "fractures, bone": ("Fracture",),
    "nodule": ("Lung Lesion",),
    "mass/lung": ("Lung Lesion",),
    "opacity": OPACITY,
    "airspace disease": OPACITY,
    "infiltrate": OPACITY,
    "pleural effusion": ("Pleural Effusion",),
    "hemothorax": ("Pleural Effusion",),
    "hydropneumothorax": ("Pleural Effusion", "Pneumothorax"),
    "hemopneumothorax": ("Pleural Effusion", "Pneumothorax"),
    "thickening/pleura": ("Pleural Other",),
    "pneumonia": ("Pneumonia",),
    "pneumothorax": ("Pneumothorax",),
    "catheters, indwelling": DEVICES,
    "implanted medical device": DEVICES,
    "medical device": DEVICES,
    "stents": DEVICES,
    "tube, inserted": DEVICES,
}
SILENT = ("no indexing", "technical quality of image unsatisfactory")


def films(config: ChestSourceConfig, findings: Issues) -> Iterator[Film]:
    """Yield the films of Open-i, by number of the report and name.

    Errors of a film: report-unreadable, id-duplicate, id-unmatched (a film of no report, or no name
    of one), image-unreadable. Warnings: labels-contradict, report-empty, report-gaps (`XXXX` in
    what would be learned), label-left-out; image-missing (reports without any film, in one; the XML
    has 104).

    Raises:
        DataError: There are no reports, or nothing says which films are frontal.
    """
    tables, root = Tables(config.name, findings), Path(config.root)
    fill_files(tables, root)
    tables.fill("paths", IMAGE, ("path",), _paths(tables))
    _load_reports(tables, root)
    tables.drop_duplicates("reports", UID)
    tables.fill("films", UID, ("image", "view"), _named(config, root, tables))
    tables.check_join("films", "reports", UID)
    _check_reports(tables)
    own = OwnLabels(SAME, ("normal",), SILENT)
    rows = tables.query(
        """SELECT f.image, f.view, p.path, r.* FROM films f JOIN reports r USING (uid)
        LEFT JOIN paths p ON p.image = f.image ORDER BY CAST(r.uid AS INTEGER), f.image"""
    )
    for row in rows:
        film = _film(config, row, tables, own)
        if film is not None:
            yield film
    own.warn(config.name, findings)


def film_name(name: str) -> tuple[str, str]:
    """Return the number of the report, and a film's name as Kaggle has it: `1_IM-0001-3001`.

    Raises:
        ValueError: It is no name of a film.
    """
    match = NAME.fullmatch(stem(name))
    if match is None:
        raise ValueError(f"{name} is no name such as CXR1_1_IM-0001-3001")
    return match["uid"], match["name"]


def _paths(tables: Tables) -> Iterator[tuple[str, str]]:
    """Yield name and path of the image files that are films of this set; others may lie there."""
    for row in list(tables.query("SELECT name, path FROM files")):
        if NAME.fullmatch(row["name"]):
            yield film_name(row["name"])[1], row["path"]


def _named(
    config: ChestSourceConfig, root: Path, tables: Tables
) -> Iterator[tuple[str, str, str | None]]:
    """Yield report, name and view of each film that the table of views or the reports name."""
    path = root / "indiana_projections.csv"
    if path.is_file():
        tables.load("projections", path, ("uid", "filename"), ("projection",))
        listed = "SELECT filename AS name, projection FROM projections"
    else:
        listed = "SELECT value AS name, NULL AS projection FROM reports, json_each(reports.films)"
        dicom = "SELECT count(*) AS n FROM paths WHERE lower(path) LIKE '%.dcm'"
        if config.views and not next(tables.query(dicom))["n"]:
            raise DataError(
                path,
                "does not exist, and neither reports nor PNG films say which films are frontal",
                "get it (Kaggle's copy of the set has it), or set `views: []` to take all films",
            )
    for row in list(tables.query(listed)):
        try:
            yield *film_name(row["name"]), row["projection"] and row["projection"].upper()
        except ValueError as error:
            case = f"{config.name}/{row['name']}"
            tables.findings.report("id-unmatched", case, str(error), "a film", "correct it")


def _load_reports(tables: Tables, root: Path) -> None:
    columns = ("films", "tags", *SECTIONS)
    if (root / "indiana_reports.csv").is_file():
        tables.load("kaggle", find_table(root, "indiana_reports"), UID, ("MeSH", *SECTIONS))
        named = ", ".join(SECTIONS)
        # This table does not name the films: where no other does, they are what lies there.
        films = (
            "SELECT json_group_array(image) FROM paths WHERE image LIKE k.uid || '\\_%' ESCAPE '\\'"
        )
        rows = list(tables.query(f"SELECT uid, ({films}), MeSH, {named} FROM kaggle k"))  # noqa: S608
        tables.fill("reports", UID, columns, map(tuple, rows))
        return
    folder = next((one for one in _folders(root) if any(one.glob("*.xml"))), None)
    if folder is None:
        raise DataError(
            root, "has neither indiana_reports.csv nor ecgen-radiology/*.xml", "download them"
        )
    tables.fill("reports", UID, columns, _read_all(folder, tables))


def _folders(root: Path) -> list[Path]:
    return [root, root / "ecgen-radiology", *sorted(root.glob("*/ecgen-radiology"))]


def _read_all(folder: Path, tables: Tables) -> Iterator[tuple[str, ...]]:
    for path in sorted(folder.glob("*.xml")):
        try:
            yield read_xml(path)
        except (ET.ParseError, ValueError) as error:
            case = f"{tables.source}/{path.name}"
            tables.findings.report("report-unreadable", case, str(error), "XML", "download it")


def read_xml(path: Path) -> tuple[str, ...]:
    """Return the number of a report, its films (JSON), tags (with `;` between) and sections.

    Raises:
        ValueError: It has no number.
        ParseError: It is no XML.
    """
    tree = ET.parse(path).getroot()  # noqa: S314 - the user's own file
    identity = tree.find("uId")
    uid = (identity.get("id") or "") if identity is not None else ""
    if not uid.removeprefix("CXR").isdecimal():
        raise ValueError(f"{path.name}: uId is {uid!r}")
    tags = [(one.text or "").strip() for one in tree.iterfind(".//MeSH/major")]
    texts = {
        str(one.get("Label")).lower(): " ".join((one.text or "").split())
        for one in tree.iterfind(".//AbstractText")
    }
    films = json.dumps([one.get("id") for one in tree.iterfind(".//parentImage")])
    sections = [texts.get(name, "") for name in SECTIONS]
    return uid.removeprefix("CXR"), films, ";".join(tags), *sections


def _check_reports(tables: Tables) -> None:
    """Say which reports have no film, in one warning."""
    sql = "SELECT count(*) AS n FROM reports WHERE uid NOT IN (SELECT uid FROM films)"
    lacking = next(tables.query(sql))["n"]
    if lacking:
        tables.findings.warn(
            "image-missing",
            tables.source,
            f"{lacking} reports without a film",
            "a film of each",
            "nothing (104 of the published reports have none)",
        )


def _film(config: ChestSourceConfig, row: Row, tables: Tables, own: OwnLabels) -> Film | None:
    case, findings = f"{config.name}/{row['image']}", tables.findings
    path = row["path"] or f"{row['image']}.png"
    header = film_header(Path(config.root) / path, case, findings) if path.endswith(".dcm") else {}
    if header is None:
        return None
    header["view"] = row["view"] or header.get("view")
    if config.views and header["view"] not in config.views:
        findings.set_aside(config.name, path, header["view"])
        return None
    judged = film_labels(own.row(tag_names(row["tags"])), config.labels, case, findings)
    if judged is None:
        return None
    said = {name: " ".join(BREAK.sub(" ", row[name]).split()) for name in SECTIONS}
    report = {name: text for name, text in said.items() if text}
    learned = report.get("findings") or report.get("impression")
    if not learned:
        findings.warn("report-empty", case, "no section", "one", "nothing (it has no report)")
    elif "XXXX" in learned:
        remedy = "filter the reports: `films.texts`"
        findings.warn("report-gaps", case, "XXXX for words taken out", "whole sentences", remedy)
    return Film(
        source=config.name,
        image_id=row["image"],
        study_id=row["uid"],
        patient_id=f"open_i/{row['uid']}",
        split=None,
        path=path,
        labels=judged[0],
        no_finding=judged[1],
        report=report,
        **header,
    )


def tag_names(tags: str) -> list[str]:
    """Return the names of tags, with a part of the body where `SAME` asks for it.

    `Opacity/lung/base` is `opacity`, `Thickening/pleura/right` is `thickening/pleura`.
    """
    names = []
    for tag in tags.split(";"):
        first, *rest = (part.strip().lower() for part in tag.split("/"))
        named = [f"{first}/{part}" for part in rest if f"{first}/{part}" in SAME]
        names += named[:1] or [first]
    return [name for name in dict.fromkeys(names) if name]
