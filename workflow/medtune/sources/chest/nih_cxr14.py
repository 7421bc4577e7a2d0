"""NIH ChestX-ray14: films with 14 labels that were mined from reports, some with boxes.

Tables `Data_Entry_2017[_v2020].csv[.gz]` and, where they were downloaded, `train_val_list.txt`,
`test_list.txt` and `BBox_List_2017.csv[.gz]`; films in any folder below the root, as
`images_001/images/00000001_000.png`, all of 1024 x 1024 pixels, in which boxes are given.

A label that a film is not given counts as absent, as everyone reads this set. Nine labels have a
counterpart; Infiltration, Emphysema, Fibrosis and Hernia have none (an infiltrate is an opacity,
but a film without one may have others). "No Finding" denies the set's own labels alone: of 2,090
such films that radiologists read again, 74 show a fracture (Majkowska et al., Radiology 294, 2020).
So films are asked for these nine labels by name. Boxes bear the set's own names; they do not mark
all that is abnormal.
"""

import csv
import gzip
from collections.abc import Iterator
from pathlib import Path
from sqlite3 import Row
from typing import Literal

from medtune.config.chest_sources import ChestSourceConfig
from medtune.records.film import Film, Region
from medtune.runtime.errors import DataError
from medtune.sources.chest.image_files import SEXES, fill_files, stem
from medtune.sources.chest.issues import Issues
from medtune.sources.chest.own_labels import OwnLabels, closed
from medtune.sources.chest.sql_tables import Tables, find_table

KEY = ("Image Index",)
SAME = {
    "Atelectasis": ("Atelectasis",),
    "Cardiomegaly": ("Cardiomegaly",),
    "Consolidation": ("Consolidation",),
    "Edema": ("Edema",),
    "Effusion": ("Pleural Effusion",),
    "Mass": ("Lung Lesion",),
    "Nodule": ("Lung Lesion",),
    "Pleural_Thickening": ("Pleural Other",),
    "Pneumonia": ("Pneumonia",),
    "Pneumothorax": ("Pneumothorax",),
}
WITHOUT = ("Emphysema", "Fibrosis", "Hernia", "Infiltration")  # a counterpart
LABELS = sorted({label for labels in SAME.values() for label in labels})
NOTHING = "No Finding"
BOXED = {*SAME, *WITHOUT, "Infiltrate"}
LISTS: dict[str, Literal["train", "test"]] = {"train_val_list": "train", "test_list": "test"}
SIZE = (1024, 1024)
COLUMNS = ("Finding Labels", "View Position")


def films(config: ChestSourceConfig, findings: Issues) -> Iterator[Film]:
    """Yield the films of ChestX-ray14, by name; patients are those of the cohort `nih`.

    Errors of a film: label-unknown, box-unreadable, split-unknown, id-unmatched, id-duplicate.
    Warnings: split-missing, boxes-missing (one for the source), label-left-out.

    Raises:
        DataError: The table or a column is missing.
    """
    tables, root = Tables(config.name, findings), Path(config.root)
    tables.load("films", _entries(root), KEY, COLUMNS, ("Patient Gender", "Patient Sex"))
    tables.drop_duplicates("films", KEY)
    fill_files(tables, root)
    tables.fill("boxes", KEY, ("name", "x", "y", "w", "h"), _boxes(root, tables))
    tables.check_join("boxes", "films", KEY)
    tables.fill("splits", KEY, ("split",), _splits(root, tables))
    own = OwnLabels(SAME, (NOTHING,))
    rows = tables.query(
        """SELECT f.*, s.split FROM films f LEFT JOIN splits s USING ("Image Index")
        ORDER BY "Image Index" """
    )
    for row in rows:
        film = _film(config, row, tables, own)
        if film is not None and (not config.views or film.view in config.views):
            yield film
        elif film is not None:
            findings.set_aside(config.name, film.path, film.view)
    own.warn(config.name, findings)


def _entries(root: Path) -> Path:
    try:
        return find_table(root, "Data_Entry_2017_v2020")
    except DataError:
        return find_table(root, "Data_Entry_2017")


def nih_patient(image: str) -> str:
    """Return the patient of `00000001_000.png`: `nih/1`."""
    return f"nih/{int(image.partition('_')[0])}"


def _splits(root: Path, tables: Tables) -> Iterator[tuple[str, str]]:
    for name, split in LISTS.items():
        path = root / f"{name}.txt"
        if path.is_file():
            yield from ((line.strip(), split) for line in path.open() if line.strip())
        else:
            tables.findings.warn(
                "split-missing", tables.source, f"no {path.name}", "both lists", "download it"
            )


def _boxes(root: Path, tables: Tables) -> Iterator[list[str]]:
    """Yield name, finding, x, y, w, h of each box.

    The header has nine cells, since commas stand in `Bbox [x,y,w,h]`; rows have six or nine.
    """
    try:
        path = find_table(root, "BBox_List_2017")
    except DataError:
        tables.findings.warn(
            "boxes-missing", tables.source, "no BBox_List_2017", "it", "download it"
        )
        return
    opener = gzip.open if path.suffix == ".gz" else open
    with opener(path, "rt", encoding="utf-8-sig", newline="") as file:
        reader = csv.reader(file)
        header = [name.strip() for name in next(reader, [])]
        if header[:6] != ["Image Index", "Finding Label", "Bbox [x", "y", "w", "h]"]:
            expected = "expected Image Index,Finding Label,Bbox [x,y,w,h]"
            raise DataError(path, f"has the header {header}, {expected}", "download it again")
        for row in reader:
            if len(row) < 6 or any(row[6:]):
                where = f"{tables.source}/{path.name}:{reader.line_num}"
                tables.findings.report("row-invalid", where, f"{len(row)} cells", "6", "correct it")
            else:
                yield [cell.strip() for cell in row[:6]]


def _film(config: ChestSourceConfig, row: Row, tables: Tables, own: OwnLabels) -> Film | None:
    image, findings = row["Image Index"], tables.findings
    case, names = f"{config.name}/{stem(image)}", row["Finding Labels"].split("|")
    unknown = sorted({*names} - {*SAME, *WITHOUT, NOTHING})
    if unknown:
        findings.report("label-unknown", case, f"{unknown}", f"{[*SAME, *WITHOUT]}", "correct it")
        return None
    listed = next(tables.query("SELECT count(*) AS n FROM splits"))["n"]
    if listed and row["split"] is None:
        findings.report("split-unknown", case, "in neither list", "in one", "download the lists")
        return None
    try:
        regions = tuple(
            _region(one)
            for one in tables.query(
                'SELECT * FROM boxes WHERE "Image Index" = ? ORDER BY rowid', image
            )
        )
    except ValueError as error:
        findings.report("box-unreadable", case, str(error), "a label and numbers", "correct it")
        return None
    said = own.row(names)
    file = next(tables.query("SELECT path FROM files WHERE name = ?", stem(image)), None)
    return Film(
        source=config.name,
        image_id=stem(image),
        study_id=stem(image),
        patient_id=nih_patient(image),
        split=row["split"],
        path=file["path"] if file else f"images/{image}",
        view=row["View Position"] or None,
        sex=SEXES.get(row["Patient Gender"] or row["Patient Sex"]),
        width=SIZE[0] if regions else None,
        height=SIZE[1] if regions else None,
        labels=closed(said, LABELS),
        no_finding=None if NOTHING in names else False,
        regions=regions,
        listed=True,
    )


def _region(row: Row) -> Region:
    if row["name"] not in BOXED:
        raise ValueError(f"the label {row['name']!r}")
    x, y, width, height = (float(row[name]) for name in ("x", "y", "w", "h"))
    return Region(kind="abnormality", name=row["name"], box=(x, y, x + width, y + height))
