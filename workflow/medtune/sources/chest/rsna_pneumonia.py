"""RSNA Pneumonia Detection Challenge: opacities that radiologists drew on films of ChestX-ray14.

Tables `stage_2_train_labels.csv[.gz]`, `stage_2_detailed_class_info.csv[.gz]`, films
`stage_2_train_images/<patientId>.dcm`; and RSNA's `pneumonia-challenge-dataset-mappings_2018.json`,
which tells whose films they are: each `patientId` is one film.

A box marks an opacity that may be pneumonia. Films are asked for the label Lung Opacity alone: a
film of the class "Normal" has none, and one that is "Not Normal" may have another kind of opacity,
so that it is not asked. Boxes do not mark all that is abnormal.
"""

from collections.abc import Iterator
from pathlib import Path
from sqlite3 import Row

from medtune.config.chest_sources import ChestSourceConfig
from medtune.records.film import Film, LabelState, Region
from medtune.runtime.errors import DataError
from medtune.runtime.files import read_json
from medtune.sources.chest.image_files import film_header
from medtune.sources.chest.issues import Issues
from medtune.sources.chest.nih_cxr14 import nih_patient
from medtune.sources.chest.sql_tables import Tables, find_table

KEY = ("patientId",)
OPACITY = "Lung Opacity"
CLASSES: dict[str, tuple[str, dict[str, LabelState]]] = {  # class -> Target, labels
    OPACITY: ("1", {OPACITY: "present"}),
    "Normal": ("0", {OPACITY: "absent"}),
    "No Lung Opacity / Not Normal": ("0", {}),
    "": ("0", {}),
}
MAPPING = "pneumonia-challenge-dataset-mappings_2018.json"
EDGES = ("x", "y", "width", "height")


def films(config: ChestSourceConfig, findings: Issues) -> Iterator[Film]:
    """Yield the films of the challenge's training set, by id.

    Patients are those of the cohort `nih`, where the mapping is there.

    Errors of a film: annotation-invalid, image-unreadable, id-unmatched. Warnings, one for the
    source: classes-missing, patients-unknown; view-unknown of a film that is kept all the same.

    Raises:
        DataError: A table or column is missing, or the mapping is none.
    """
    tables, root = Tables(config.name, findings), Path(config.root)
    labels = find_table(root, "stage_2_train_labels")
    tables.load("boxes", labels, KEY, (*EDGES, "Target"))
    _load_classes(tables, root)
    tables.check_join("classes", "boxes", KEY)
    tables.fill("patients", KEY, ("image",), _mapping(root / MAPPING, tables))
    names = "SELECT DISTINCT patientId FROM boxes ORDER BY patientId"
    for row in list(tables.query(names)):
        film = _film(config, row["patientId"], tables)
        if film is not None and (not config.views or film.view in (None, *config.views)):
            yield film
        elif film is not None:
            findings.set_aside(config.name, film.path, film.view)


def _load_classes(tables: Tables, root: Path) -> None:
    try:
        path = find_table(root, "stage_2_detailed_class_info")
    except DataError:
        tables.fill("classes", KEY, ("class",), ())
        tables.findings.warn(
            "classes-missing",
            tables.source,
            "no stage_2_detailed_class_info",
            "it",
            "nothing (films without an opacity are not asked for it)",
        )
    else:
        tables.load("classes", path, KEY, ("class",))


def _mapping(path: Path, tables: Tables) -> Iterator[tuple[str, str]]:
    if not path.is_file():
        tables.findings.warn(
            "patients-unknown", tables.source, f"no {path.name}", "the films' patients", "get it"
        )
        return
    try:
        for one in read_json(path):
            nih_patient(one["img_id"])
            yield one["subset_img_id"], one["img_id"]
    except (KeyError, TypeError, ValueError) as error:
        found = f"{type(error).__name__} {error}"
        raise DataError(path, f"{found}; expected img_id, subset_img_id", "download it") from None


def _film(config: ChestSourceConfig, image: str, tables: Tables) -> Film | None:
    case, path = f"{config.name}/{image}", f"stage_2_train_images/{image}.dcm"
    rows = list(tables.query("SELECT * FROM boxes WHERE patientId = ? ORDER BY rowid", image))
    classes = tables.query("SELECT DISTINCT class FROM classes WHERE patientId = ?", image)
    try:
        labels, regions = _annotation([row["class"] for row in classes], rows)
    except ValueError as error:
        tables.findings.report(
            "annotation-invalid", case, str(error), "boxes or none, and their class", "correct it"
        )
        return None
    header = film_header(Path(config.root) / path, case, tables.findings)
    if header is None:
        return None
    known = next(tables.query("SELECT image FROM patients WHERE patientId = ?", image), None)
    return Film(
        source=config.name,
        image_id=image,
        study_id=image,
        patient_id=nih_patient(known["image"]) if known else f"rsna/{image}",
        split="train",
        path=path,
        labels=labels,
        no_finding=False if regions else None,
        regions=regions,
        listed=True,
        **header,
    )


def _annotation(
    classes: list[str], rows: list[Row]
) -> tuple[dict[str, LabelState], tuple[Region, ...]]:
    """Return labels and boxes.

    Raises:
        ValueError: They contradict each other, or cannot be read.
    """
    targets = {row["Target"] for row in rows}
    name = classes[0] if classes else OPACITY if targets == {"1"} else ""
    if len(classes) > 1 or name not in CLASSES or targets != {CLASSES[name][0]}:
        raise ValueError(f"class {classes}, Target {sorted(targets)}")
    edges = [[row[edge] for edge in EDGES] for row in rows]
    if targets == {"0"}:
        if any(any(one) for one in edges):
            raise ValueError(f"Target 0 with a box {edges}")
        return CLASSES[name][1], ()
    boxes = [[float(edge) for edge in one] for one in edges]
    regions = (
        Region(kind="abnormality", name=OPACITY, box=(x, y, x + width, y + height))
        for x, y, width, height in boxes
    )
    return CLASSES[name][1], tuple(regions)
