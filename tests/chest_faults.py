"""Ways to spoil the miniature chest-film data, and what is to be found then."""

import csv
import gzip
import json
import shutil
from collections.abc import Callable
from pathlib import Path

from chest_files import write_csv

MIMIC = "mimic_jpg/mimic-cxr-2.0.0"
PHRASES = "ms_cxr/MS_CXR_Local_Alignment_v1.0.0.csv"
VINDR = "vindr/annotations/annotations_train.csv"
PLUS = "chexpert_plus/df_chexpert_plus_240401.csv"
PADCHEST = "padchest/grounded_reports_20240819.json"
PATH_2 = "train/patient00002/study1/view1_frontal.jpg"


def edit(path: Path, change: Callable[[list[dict]], object]) -> None:
    """Change the rows of a table in place."""
    opener = gzip.open if path.suffix == ".gz" else open
    with opener(path, "rt", newline="") as file:
        rows = list(csv.DictReader(file))
    change(rows)
    write_csv(path, rows)


def name(patient: int, number: int) -> str:
    return f"{patient:08x}-{number:08x}-aaaaaaaa-bbbbbbbb-cccccccc"


def set_cell(row: int, **cells: object) -> Callable[[list[dict]], None]:
    return lambda rows: rows[row].update(cells)


def drop(key: str, value: str) -> Callable[[list[dict]], None]:
    def change(rows: list[dict]) -> None:
        rows[:] = [row for row in rows if row[key] != value]

    return change


def repeat(rows: list[dict]) -> None:
    rows.append(rows[0])


def graph(root: Path, change: Callable[[dict], object]) -> None:
    path = root / f"imagenome/silver_dataset/scene_graph/{name(1, 2)}_SceneGraph.json"
    one = json.loads(path.read_text())
    change(one["objects"][0])
    path.write_text(json.dumps(one))


def padchest(root: Path, change: Callable[[list[dict]], object]) -> None:
    path = root / PADCHEST
    entries = json.loads(path.read_text())
    change(entries)
    path.write_text(json.dumps(entries))


def two_folders(root: Path) -> None:
    """Put the film of a test patient into the validation set too."""
    own = "patient00006/study1/view1_frontal.jpg"
    (root / f"chexpert/valid/{own}").parent.mkdir(parents=True)
    shutil.copy(root / f"chexpert/test/{own}", root / f"chexpert/valid/{own}")
    edit(root / "chexpert/valid.csv", lambda rows: rows.append(rows[0] | {"Path": f"valid/{own}"}))


def clear_size(image: str) -> Callable[[list[dict]], None]:
    def change(rows: list[dict]) -> None:
        next(row for row in rows if row["dicom_id"] == image).update(Rows="")

    return change


# kind, what is done to the data, code, the film that is left out (None: none is)
ERRORS = {
    "image-missing": (
        "chexpert",
        lambda root: (root / "chexpert/train/patient00001/study1/view1_frontal.jpg").unlink(),
        "patient00001_study1_view1_frontal",
    ),
    "id-unmatched, no split": (
        "mimic_cxr",
        lambda root: edit(root / f"{MIMIC}-split.csv", drop("dicom_id", name(1, 2))),
        name(1, 2),
    ),
    "id-unmatched, other study": (  # joined by image alone, it would get another's labels
        "mimic_cxr",
        lambda root: edit(root / f"{MIMIC}-split.csv", set_cell(1, study_id="50414267")),
        name(5, 10),
    ),
    "id-unmatched, phrase": (
        "ms_cxr",
        lambda root: edit(root / PHRASES, set_cell(0, dicom_id="elsewhere")),
        name(0, 1),
    ),
    "id-unmatched, labels": (
        "chexpert_plus",
        lambda root: edit(root / PLUS, drop("path_to_image", PATH_2)),
        "patient00002_study1_view1_frontal",
    ),
    "id-duplicate": (
        "chexpert",
        lambda root: edit(root / "chexpert/train.csv", repeat),
        "patient00001_study1_view1_frontal",
    ),
    "id-duplicate, both splits": (
        "vindr_cxr",
        lambda root: edit(
            root / "vindr/annotations/annotations_test.csv", set_cell(0, image_id=f"{1:032x}")
        ),
        f"{1:032x}",
    ),
    "id-duplicate, one image": (
        "mimic_cxr",
        lambda root: edit(root / f"{MIMIC}-metadata.csv.gz", repeat),
        name(0, 0),
    ),
    "id-duplicate, one study": (  # which labels count?
        "mimic_cxr",
        lambda root: edit(root / f"{MIMIC}-chexpert.csv.gz", repeat),
        None,
    ),
    "id-duplicate, two folders": (
        "chexpert",
        two_folders,
        None,
    ),
    "id-unmatched, graph of other study": (
        "chest_imagenome",
        lambda root: edit(
            root / "imagenome/silver_dataset/splits/train.csv", set_cell(2, study_id="50414267")
        ),
        name(1, 2),
    ),
    "id-unmatched, no split, phrase": (
        "ms_cxr",
        lambda root: edit(root / f"{MIMIC}-split.csv", drop("dicom_id", name(1, 2))),
        name(1, 2),
    ),
    "split-unknown": (
        "mimic_cxr",
        lambda root: edit(root / f"{MIMIC}-split.csv", set_cell(1, split="holdout")),
        name(5, 10),
    ),
    "label-unknown": (
        "chexpert",
        lambda root: edit(root / "chexpert/train.csv", set_cell(0, Edema="2.0")),
        "patient00001_study1_view1_frontal",
    ),
    "path-unknown": (
        "chexpert",
        lambda root: edit(root / "chexpert/train.csv", set_cell(0, Path="elsewhere.jpg")),
        "patient00001_study1_view1_frontal",
    ),
    "size-mismatch": (
        "ms_cxr",
        lambda root: edit(root / PHRASES, set_cell(0, image_width=1024)),
        name(0, 1),
    ),
    "box-unreadable": (
        "ms_cxr",
        lambda root: edit(root / PHRASES, set_cell(0, x="left")),
        name(0, 1),
    ),
    "box-invalid, empty": (
        "ms_cxr",
        lambda root: edit(root / PHRASES, set_cell(0, w=0)),
        name(0, 1),
    ),
    "box-invalid, reversed": (
        "ms_cxr",
        lambda root: edit(root / PHRASES, set_cell(0, w=-5)),
        name(0, 1),
    ),
    "box-invalid, NaN": (
        "vindr_cxr",
        lambda root: edit(root / VINDR, set_cell(3, x_min="nan")),
        f"{1:032x}",
    ),
    "box-outside": (
        "ms_cxr",
        lambda root: edit(root / PHRASES, set_cell(0, x=150)),
        name(0, 1),
    ),
    "box-outside, pixels for shares": (
        "padchest_gr",
        lambda root: padchest(
            root, lambda all_: all_[1]["findings"][0].update(boxes=[[36, 45, 67, 65]])
        ),
        "2160001_film_001",
    ),
    "name-empty": (
        "ms_cxr",
        lambda root: edit(root / PHRASES, set_cell(0, label_text=" ")),
        name(0, 1),
    ),
    "graph-invalid": (
        "chest_imagenome",
        lambda root: graph(root, lambda one: one.pop("original_y2")),
        name(1, 2),
    ),
    "annotation-invalid": (
        "vindr_cxr",
        lambda root: edit(root / VINDR, set_cell(3, class_name="Cardiomegalie")),
        f"{1:032x}",
    ),
    "annotation-missing": (
        "vindr_cxr",
        lambda root: edit(root / VINDR, drop("image_id", f"{1:032x}")),
        f"{1:032x}",
    ),
    "image-unreadable, DICOM": (
        "vindr_cxr",
        lambda root: (root / f"vindr/train/{1:032x}.dicom").write_bytes(b"no DICOM"),
        f"{1:032x}",
    ),
    "image-unreadable, PNG": (
        "padchest_gr",
        lambda root: (root / "padchest/images_grounding/2160001_film_001.png").write_bytes(b"x"),
        "2160001_film_001",
    ),
    "sentences-invalid": (
        "padchest_gr",
        lambda root: padchest(root, lambda all_: all_[1]["findings"][0].pop("sentence_en")),
        "2160001_film_001",
    ),
    "row-invalid": (
        "chexpert",
        lambda root: (root / "chexpert/train.csv").open("a").write("train/patient9,Male\r\n"),
        None,
    ),
}
