"""PadChest: films with labels of their reports, in the set's own words.

Table `PADCHEST_chest_x_ray_images_labels_160K_01.02.19.csv[.gz]`; films in any folder below the
root, as `0/<ImageID>`. PadChest-GR is made of the same films and names patients alike.

The reports are Spanish words without their endings, and no text to learn: they are kept as
`spanish`. `SAME` says which labels have a counterpart among the 13; all others are left out, with a
count of each. A label that a film does not have was not mentioned: see `labels.blank`.
"""

import ast
from collections.abc import Iterator
from pathlib import Path
from sqlite3 import Row

from medtune.config.chest_sources import ChestSourceConfig
from medtune.records.film import Film
from medtune.sources.chest.image_files import SEXES, fill_files, stem
from medtune.sources.chest.issues import Issues
from medtune.sources.chest.labels import film_labels
from medtune.sources.chest.own_labels import OwnLabels
from medtune.sources.chest.sql_tables import Tables, find_table

KEY = ("ImageID",)
TABLE = "PADCHEST_chest_x_ray_images_labels_160K_01.02.19"
COLUMNS = ("PatientID", "StudyID", "Projection", "Report", "Labels")
SPANISH = "spanish"
NAMES = {
    "Atelectasis": (
        *("atelectasis", "laminar atelectasis", "lobar atelectasis", "segmental atelectasis"),
        *("total atelectasis", "round atelectasis", "atelectasis basal"),
    ),
    "Cardiomegaly": ("cardiomegaly",),
    "Consolidation": ("consolidation",),
    "Edema": ("pulmonary edema",),
    "Enlarged Cardiomediastinum": ("mediastinal enlargement", "superior mediastinal enlargement"),
    "Fracture": (
        *("fracture", "rib fracture", "callus rib fracture", "clavicle fracture"),
        *("humeral fracture", "vertebral fracture"),
    ),
    "Lung Lesion": ("nodule", "multiple nodules", "pulmonary mass", "lung metastasis"),
    "Lung Opacity": (
        *("infiltrates", "alveolar pattern", "interstitial pattern", "increased density"),
        *("reticular interstitial pattern", "reticulonodular interstitial pattern"),
        *("ground glass pattern", "miliary opacities"),
    ),
    "Pleural Effusion": (
        *("pleural effusion", "loculated pleural effusion", "loculated fissural effusion"),
        "hydropneumothorax",
    ),
    "Pleural Other": (
        *("pleural thickening", "apical pleural thickening", "calcified pleural thickening"),
        *("pleural plaques", "calcified pleural plaques"),
    ),
    "Pneumonia": ("pneumonia", "atypical pneumonia"),
    "Pneumothorax": ("pneumothorax", "hydropneumothorax"),
    "Support Devices": (
        *("NSG tube", "endotracheal tube", "tracheostomy tube", "chest drain tube"),
        *("gastrostomy tube", "ventriculoperitoneal drain tube", "catheter"),
        *("central venous catheter", "central venous catheter via jugular vein"),
        *("central venous catheter via subclavian vein", "reservoir central venous catheter"),
        *("central venous catheter via umbilical vein", "pacemaker", "electrical device"),
        *("single chamber device", "dual chamber device", "dai", "artificial heart valve"),
        *("artificial mitral heart valve", "artificial aortic heart valve"),
    ),
}
SAME = {
    name: tuple(label for label, own in NAMES.items() if name in own)
    for names in NAMES.values()
    for name in names
}
# What tells of the report and not of the film.
SILENT = ("unchanged", "suboptimal study", "exclude")


def films(config: ChestSourceConfig, findings: Issues) -> Iterator[Film]:
    """Yield the films of PadChest, by patient, study and image.

    Errors of a film: label-unknown, id-duplicate. Warnings: labels-missing, labels-contradict,
    label-left-out.

    Raises:
        DataError: The table or a column is missing.
    """
    tables, root = Tables(config.name, findings), Path(config.root)
    tables.load("films", find_table(root, TABLE), KEY, COLUMNS, ("ImageDir", "PatientSex_DICOM"))
    tables.drop_duplicates("films", KEY)
    fill_files(tables, root)
    tables.index("films", "PatientID")
    own = OwnLabels(SAME, ("normal",), SILENT)
    for row in tables.query("SELECT * FROM films ORDER BY PatientID, StudyID, ImageID"):
        if config.views and row["Projection"] not in config.views:
            findings.set_aside(config.name, _path(row, tables), row["Projection"])
            continue
        film = _film(config, row, tables, own)
        if film is not None:
            yield film
    own.warn(config.name, findings)


def _film(config: ChestSourceConfig, row: Row, tables: Tables, own: OwnLabels) -> Film | None:
    name, findings = stem(row["ImageID"]), tables.findings
    case = f"{config.name}/{name}"
    try:
        names = own_names(row["Labels"])
    except ValueError:
        found = row["Labels"][:80]
        findings.report("label-unknown", case, found, "a list of labels", "download it again")
        return None
    if not names:
        findings.warn("labels-missing", case, "no label", "some", "nothing (all are unknown)")
    judged = film_labels(own.row(names), config.labels, case, findings)
    if judged is None:
        return None
    spanish = " ".join(row["Report"].split())
    return Film(
        source=config.name,
        image_id=name,
        study_id=row["StudyID"] or name,
        patient_id=f"padchest/{row['PatientID'] or name}",
        split=None,
        path=_path(row, tables),
        view=row["Projection"] or None,
        sex=SEXES.get(row["PatientSex_DICOM"]),
        labels=judged[0],
        no_finding=judged[1],
        report={SPANISH: spanish} if spanish else {},
    )


def _path(row: Row, tables: Tables) -> str:
    """Return where an image lies, or where it should."""
    name = stem(row["ImageID"])
    file = next(tables.query("SELECT path FROM files WHERE name = ?", name), None)
    return file["path"] if file else f"{row['ImageDir'] or '0'}/{row['ImageID']}"


def own_names(text: str) -> list[str]:
    """Return the labels of `['a', ' b', '']`; none for an empty cell or `nan`.

    Raises:
        ValueError: It is no list of texts.
    """
    if text.lower() in ("", "nan"):
        return []
    try:
        names = ast.literal_eval(text)
    except (SyntaxError, ValueError, MemoryError, RecursionError) as error:
        raise ValueError(text) from error
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise ValueError(text)
    # Some have a space in front, and some lists an empty text.
    return list(dict.fromkeys(name.strip() for name in names if name.strip()))
