"""MS-CXR: phrases of reports with their boxes, on films of MIMIC-CXR-JPG.

Table `MS_CXR_Local_Alignment_v*.csv`: x, y, w, h in pixels of the original film, whose size
it repeats. Its films are in the split of MIMIC-CXR.
"""

from collections.abc import Iterator
from pathlib import Path

from medtune.config.chest_sources import ChestSourceConfig
from medtune.records.film import Film, Region
from medtune.runtime.errors import DataError
from medtune.sources.chest.issues import Issues
from medtune.sources.chest.mimic_cxr import Mimic

COLUMNS = ("label_text", "x", "y", "w", "h", "image_width", "image_height")


def films(config: ChestSourceConfig, findings: Issues) -> Iterator[Film]:
    """Yield the films that have phrases, with report and labels as in MIMIC-CXR-JPG.

    Errors of a film: those of MIMIC-CXR-JPG, id-unmatched, box-unreadable, size-mismatch.

    Raises:
        DataError: A table or column is missing.
    """
    mimic = Mimic(config, Path(config.parent or ""), findings)
    mimic.tables.load("phrases", _table(Path(config.root)), ("dicom_id",), COLUMNS)
    mimic.tables.check_join("phrases", "metadata", ("dicom_id",))
    for film in mimic.films("phrases"):
        rows = mimic.tables.query(
            "SELECT * FROM phrases WHERE dicom_id = ? ORDER BY rowid", film.image_id
        )
        case = f"{film.source}/{film.image_id}"
        regions, sizes = [], set()
        try:
            for row in rows:
                x, y, width, height = (float(row[name]) for name in ("x", "y", "w", "h"))
                box = (x, y, x + width, y + height)
                regions.append(Region(kind="phrase", name=row["label_text"], box=box))
                sizes.add((int(float(row["image_width"])), int(float(row["image_height"]))))
        except ValueError as error:
            findings.report("box-unreadable", case, str(error), "numbers", "correct the row")
            continue
        if sizes != {(film.width, film.height)}:
            found = f"{sorted(sizes)}, but {(film.width, film.height)} in MIMIC-CXR-JPG"
            findings.report("size-mismatch", case, found, "one size", "is it the same image?")
            continue
        yield film.model_copy(update={"regions": tuple(regions)})


def _table(root: Path) -> Path:
    found = sorted(root.glob("MS_CXR_Local_Alignment_v*.csv"))
    if len(found) != 1:
        raise DataError(
            root,
            f"has {len(found)} tables MS_CXR_Local_Alignment_v*.csv, expected one",
            "download it, and keep one version",
        )
    return found[0]
