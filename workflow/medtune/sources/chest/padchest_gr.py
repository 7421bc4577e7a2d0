"""PadChest-GR: sentences with their boxes; reports in English, and in Spanish as written.

Tables `master_table.csv` and `PADCHEST_chest_x_ray_images_labels_160K_01.02.19.csv[.gz]`, sentences
`grounded_reports_20240819.json`, films in `images_grounding/`. Boxes are shares of the image's
width and height, which the second table tells (Rows_DICOM, Columns_DICOM), or else the file.
"""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from sqlite3 import Row
from typing import Any, Literal

from medtune.config.chest_sources import ChestSourceConfig
from medtune.records.film import Film, Region
from medtune.runtime.errors import DataError
from medtune.runtime.files import read_json
from medtune.sources.chest.images import file_size
from medtune.sources.chest.issues import Issues
from medtune.sources.chest.sql_tables import Tables, find_table

SPLITS: dict[str, Literal["train", "val", "test"]] = {
    "train": "train",
    "validation": "val",
    "test": "test",
}
KEY, FOLDER = ("ImageID",), "images_grounding"
SIDES = ("Columns_DICOM", "Rows_DICOM")
SEXES: dict[str, Literal["female", "male"]] = {"F": "female", "M": "male"}
SPANISH = "spanish"


def films(config: ChestSourceConfig, findings: Issues) -> Iterator[Film]:
    """Yield the films of PadChest-GR, by id.

    The report's findings are the English sentences, with and without boxes; `spanish` is the
    original. Only sentences with boxes become regions.

    Errors of a film: id-unmatched, split-unknown, image-unreadable, sentences-invalid.

    Raises:
        DataError: A table or column is missing.
    """
    tables, root = Tables(config.name, findings), Path(config.root)
    tables.load("master", find_table(root, "master_table"), KEY, ("split",), ("PatientSex_DICOM",))
    # One row per finding in some releases: equal rows are one.
    tables.database.execute(
        "DELETE FROM master WHERE rowid NOT IN (SELECT min(rowid) FROM master "
        "GROUP BY ImageID, split, PatientSex_DICOM)"
    )
    path = find_table(root, "PADCHEST_chest_x_ray_images_labels_160K_01.02.19")
    tables.load("about", path, KEY, ("PatientID", "Projection", "Report"), SIDES)
    tables.fill(
        "sentences", KEY, ("findings",), _sentences(root / "grounded_reports_20240819.json")
    )
    for name in ("master", "about", "sentences"):
        tables.drop_duplicates(name, KEY)
    tables.check_join("master", "about", KEY)
    tables.check_join("master", "sentences", KEY)
    tables.check_join("sentences", "master", KEY)
    joined = tables.query(
        """SELECT * FROM master JOIN about USING (ImageID) JOIN sentences USING (ImageID)
        ORDER BY ImageID"""
    )
    for row in joined:
        if config.views and row["Projection"] not in config.views:
            findings.set_aside(config.name, f"{FOLDER}/{row['ImageID']}", row["Projection"])
            continue
        film = _film(config, row, findings)
        if film is not None:
            yield film


def _sentences(path: Path) -> list[tuple[str, str]]:
    """Return id and findings, as JSON, of each entry."""
    try:
        return [(one["ImageID"], json.dumps(one["findings"])) for one in read_json(path)]
    except (KeyError, TypeError) as error:
        raise DataError(
            path,
            f"{type(error).__name__} {error}; expected a list of objects with ImageID and findings",
            "download it again",
        ) from None


def _film(config: ChestSourceConfig, row: Row, findings: Issues) -> Film | None:
    image, path = row["ImageID"], f"{FOLDER}/{row['ImageID']}"
    stem, said = image.rpartition(".")[0], json.loads(row["findings"])
    case = f"{config.name}/{stem}"
    if row["split"] not in SPLITS:
        findings.report("split-unknown", case, row["split"], f"one of {list(SPLITS)}", "correct it")
        return None
    file = Path(config.root) / path
    size = _size(row)
    if size is None and file.is_file():
        size = file_size(file, case, findings)
        if size is None:
            return None
    try:
        regions, sentences = _regions(said, size or (1, 1)), [one["sentence_en"] for one in said]
    except (KeyError, TypeError, ValueError) as error:
        found = f"{type(error).__name__} {error}"
        findings.report("sentences-invalid", case, found, "sentences with boxes", "correct it")
        return None
    findings.leave_out(config.name, "sentence without a box", sum(not one["boxes"] for one in said))
    report = {"findings": " ".join(sentences), SPANISH: " ".join(row["Report"].split())}
    flags = [one.get("abnormal") for one in said]
    return Film(
        source=config.name,
        image_id=stem,
        study_id=stem,
        patient_id=f"padchest/{row['PatientID'] or stem}",
        split=SPLITS[row["split"]],
        path=path,
        view=row["Projection"] or None,
        sex=SEXES.get(row["PatientSex_DICOM"]),
        width=size[0] if size else None,
        height=size[1] if size else None,
        no_finding=None if not flags or None in flags else not any(flags),
        report={name: text for name, text in report.items() if text},
        regions=regions,
    )


def _size(row: Row) -> tuple[int, int] | None:
    """Return (width, height) of the original, if the table tells it."""
    width, height = (row[name].removesuffix(".0") for name in SIDES)
    known = width.isdecimal() and height.isdecimal()
    return (int(width), int(height)) if known else None


def _regions(said: Sequence[dict[str, Any]], size: tuple[int, int]) -> tuple[Region, ...]:
    scale = (*size, *size)
    return tuple(
        Region(
            kind="phrase",
            name=one["sentence_en"],
            box=[share * side for share, side in zip(box, scale, strict=True)],
        )
        for one in said
        for box in one["boxes"]
    )
