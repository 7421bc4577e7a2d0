"""VinDr-CXR: boxes of findings, by three readers (train) or by their consensus (test); DICOM.

Tables `[annotations/]annotations_{train,test}.csv`, films `{train,test}/<image_id>.dicom`. The set
does not tell which films are of one patient: every image is a patient of its own. Size and sex are
read from the DICOM header. Copies as PNG or JPEG have lost both: the originals' sizes are read from
`{train,test}_meta.csv` (image_id, dim0: rows, dim1: columns), as such copies are handed on with;
without it their boxes cannot be placed.
"""

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from sqlite3 import Row
from typing import Any, Literal

from medtune.config.chest_sources import ChestSourceConfig
from medtune.media.image_header import image_header
from medtune.records.film import Film, Region
from medtune.runtime.errors import DataError
from medtune.sources.chest.images import images_below
from medtune.sources.chest.issues import Issues
from medtune.sources.chest.sql_tables import Tables, find_table

SPLITS: tuple[Literal["train", "test"], ...] = ("train", "test")
NOTHING = "No finding"
# As published, local and global labels.
CLASSES = frozenset(
    (
        *("Aortic enlargement", "Atelectasis", "Calcification", "Cardiomegaly", "COPD"),
        *("Clavicle fracture", "Consolidation", "Edema", "Emphysema", "Enlarged PA", "ILD"),
        *("Infiltration", "Lung Opacity", "Lung cavity", "Lung cyst", "Lung tumor"),
        *("Mediastinal shift", "Nodule/Mass", "Other disease", "Other lesion"),
        *("Pleural effusion", "Pleural thickening", "Pneumonia", "Pneumothorax"),
        *("Pulmonary fibrosis", "Rib fracture", "Tuberculosis"),
    )
)
CORNERS = ("x_min", "y_min", "x_max", "y_max")
KEY = ("image_id",)
SEXES: dict[str, Literal["female", "male"]] = {"F": "female", "M": "male"}


def films(config: ChestSourceConfig, findings: Issues) -> Iterator[Film]:
    """Yield the films of VinDr-CXR, by split and id.

    `no_finding` is True where all readers say so, False where none does, and None where they
    disagree.

    Errors of a film: image-unreadable, annotation-invalid, annotation-missing (a file without a
    row), id-duplicate (in both splits).

    Raises:
        DataError: A table or column is missing.
    """
    tables, root = Tables(config.name, findings), Path(config.root)
    folder = root / "annotations" if (root / "annotations").is_dir() else root
    for split in SPLITS:
        path = find_table(folder, f"annotations_{split}")
        # One table says rad_id, another rad_ID, and the test set, a consensus, has no such column.
        tables.load("boxes", path, KEY, ("class_name", *CORNERS), ("rad_id",), split=split)
    for split in SPLITS:
        images = images_below(root / split).items()
        tables.fill("files", KEY, ("split", "file"), ((stem, split, name) for stem, name in images))
    _load_sizes(tables, (root, folder))
    tables.drop_duplicates("files", KEY)
    _check_files(tables, findings)
    _drop_shared(tables, findings)
    names = """SELECT DISTINCT b.split, b.image_id, f.file, s.dim0, s.dim1 FROM boxes b
        LEFT JOIN files f USING (image_id, split) LEFT JOIN sizes s USING (image_id)
        ORDER BY b.split DESC, b.image_id"""
    rows = "SELECT * FROM boxes WHERE image_id = ? AND split = ? ORDER BY rowid"
    for one in list(tables.query(names)):
        own = list(tables.query(rows, one["image_id"], one["split"]))
        film = _film(config, one, own, findings)
        if film is not None:
            yield film


def _check_files(tables: Tables, findings: Issues) -> None:
    lacking = tables.query(
        "SELECT f.image_id FROM files f LEFT JOIN boxes b USING (image_id) WHERE b.rowid IS NULL"
    )
    for row in lacking:
        findings.report(
            "annotation-missing",
            f"{tables.source}/{row['image_id']}",
            "a file without a row in the annotations",
            f"boxes, or `{NOTHING}`",
            "download the annotations again",
        )


def _drop_shared(tables: Tables, findings: Issues) -> None:
    """Remove the images that are annotated in both splits."""
    shared = "SELECT image_id FROM boxes GROUP BY image_id HAVING count(DISTINCT split) > 1"
    for row in list(tables.query(shared)):
        case = f"{tables.source}/{row['image_id']}"
        findings.report("id-duplicate", case, "in train and test", "one split", "remove one")
        tables.database.execute("DELETE FROM boxes WHERE image_id = ?", [row["image_id"]])


def _film(
    config: ChestSourceConfig, about: Row, rows: Sequence[Row], findings: Issues
) -> Film | None:
    image, split = about["image_id"], about["split"]
    case, path = f"{config.name}/{image}", f"{split}/{about['file'] or image + '.dicom'}"
    try:
        regions = [one for row in rows if (one := _region(row)) is not None]
    except ValueError as error:
        findings.report(
            "annotation-invalid", case, str(error), "a known class and its box", "correct it"
        )
        return None
    header = _header(Path(config.root) / path, case, about, findings)
    if header is None:
        return None
    said = {row["class_name"] == NOTHING for row in rows}
    return Film(
        source=config.name,
        image_id=image,
        study_id=image,
        patient_id=f"vindr/{image}",
        split=split,
        path=path,
        no_finding=said.pop() if len(said) == 1 else None,
        regions=tuple(regions),
        **header,
    )


def _region(row: Row) -> Region | None:
    """Return the box of a row, or None if it says that there is nothing.

    Raises:
        ValueError: The class is not known, or its corners are no numbers.
    """
    name, corners = row["class_name"], [row[corner] for corner in CORNERS]
    if name == NOTHING and all(corner.lower() in ("", "nan") for corner in corners):
        return None
    if name not in CLASSES:
        raise ValueError(f"class {name!r} at {corners}")
    box = tuple(float(corner) for corner in corners)
    reader = row["rad_id"] or None
    return Region(kind="abnormality", name=name, box=box, reader=reader)


def _load_sizes(tables: Tables, folders: Iterable[Path]) -> None:
    """Load the sizes of the originals, where a table tells them."""
    tables.fill("sizes", KEY, ("dim0", "dim1", "sizes_line"), ())
    for path in {folder / f"{split}_meta.csv" for folder in folders for split in SPLITS}:
        if path.is_file():
            tables.load("sizes", path, KEY, ("dim0", "dim1"))


def _header(path: Path, case: str, row: Row, findings: Issues) -> dict[str, Any] | None:
    """Return width and height of the original, and sex; {} without a file: see `check_film`."""
    if not path.is_file():
        return {}
    try:
        header = image_header(path)
    except DataError as error:
        found, expected = f"{path.name}: {error.found}", "an image"
        findings.report("image-unreadable", case, found, expected, error.remedy)
        return None
    if header.format == "DICOM":
        size = {"width": header.width, "height": header.height}
        return size | {"sex": SEXES.get(header.sex)}
    sides = [str(row[name] or "") for name in ("dim1", "dim0")]
    known = all(side.isdecimal() for side in sides)
    return dict(zip(("width", "height"), map(int, sides), strict=True)) if known else {}
