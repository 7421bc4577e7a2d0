"""Faulty chest-film sources stop, or leave the film out with its reason; nothing is guessed."""

import csv
import gzip
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from chest_data import write_chest_data
from chest_files import write_csv
from PIL import Image

from medtune.errors import DataError
from medtune.files import read_json
from medtune.sections.chest_sources import ChestSourceConfig, ChestVerificationConfig
from medtune.sources.chest.findings import Findings
from medtune.sources.chest.index import read_films, write_index
from medtune.sources.chest.verify import same_images
from medtune.tables import read_rows

STOP, EXCLUDE = (ChestVerificationConfig(on_error=one) for one in ("stop", "exclude"))
MIMIC = "mimic_jpg/mimic-cxr-2.0.0"
PHRASES = "ms_cxr/MS_CXR_Local_Alignment_v1.0.0.csv"
VINDR = "vindr/annotations/annotations_train.csv"
PLUS = "chexpert_plus/df_chexpert_plus_240401.csv"
PADCHEST = "padchest/grounded_reports_20240819.json"


@pytest.fixture(scope="module")
def clean(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_chest_data(tmp_path_factory.mktemp("chest"), patients=6, seed=0).root


@pytest.fixture
def root(clean: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(clean, tmp_path / "data"))


def edit(path: Path, change: Callable[[list[dict]], object]) -> None:
    """Change the rows of a table in place."""
    opener = gzip.open if path.suffix == ".gz" else open
    with opener(path, "rt", newline="") as file:
        rows = list(csv.DictReader(file))
    change(rows)
    write_csv(path, rows)


def run(root: Path, kind: str, policy: ChestVerificationConfig) -> tuple[set, dict]:
    """Return the ids of the films of a source, and its findings (code -> cases)."""
    source = {"name": kind, "kind": kind} | SOURCES[kind]
    folders = ("root", "parent", "reports")
    config = source | {one: str(root / source[one]) for one in folders if one in source}
    out = root.parent / "out"
    findings, summary = out / "findings.parquet", out / "summary.json"
    write_index([ChestSourceConfig(**config)], policy, out / "films", findings, summary)
    found: dict[str, list[str]] = {}
    for row in read_rows(findings):
        found.setdefault(row["code"], []).append(row["case"].partition("/")[2])
    counts = read_json(summary)
    films = {film.image_id for film in read_films(out / "films")}
    assert counts["films"] == {kind: len(films)}
    assert sum(counts["findings"].values()) == sum(map(len, found.values()))
    return films, found


SOURCES = {
    "mimic_cxr": {"root": "mimic_jpg", "reports": "mimic_reports"},
    "chest_imagenome": {"root": "imagenome", "parent": "mimic_jpg"},
    "ms_cxr": {"root": "ms_cxr", "parent": "mimic_jpg"},
    "chexpert": {"root": "chexpert"},
    "chexpert_plus": {"root": "chexpert_plus", "parent": "chexpert"},
    "vindr_cxr": {"root": "vindr"},
    "padchest_gr": {"root": "padchest"},
}


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
    "size-unknown": (
        "chest_imagenome",
        lambda root: edit(root / f"{MIMIC}-metadata.csv.gz", clear_size(name(1, 2))),
        name(1, 2),
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
        "chest_imagenome",
        lambda root: graph(root, lambda one: one.update(original_x1=60)),
        name(1, 2),
    ),
    "box-invalid, NaN": (
        "vindr_cxr",
        lambda root: edit(root / VINDR, set_cell(3, x_min="nan")),
        f"{1:032x}",
    ),
    "box-outside": (
        "chest_imagenome",
        lambda root: graph(root, lambda one: one.update(original_x2=150)),
        name(1, 2),
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
PATH_2 = "train/patient00002/study1/view1_frontal.jpg"


def clear_size(image: str) -> Callable[[list[dict]], None]:
    def change(rows: list[dict]) -> None:
        next(row for row in rows if row["dicom_id"] == image).update(Rows="")

    return change


@pytest.mark.parametrize("fault", ERRORS)
def test_an_error_stops_or_leaves_its_film_out(root, fault):
    kind, harm, lost = ERRORS[fault]
    code = fault.partition(",")[0]
    before, unharmed = run(root, kind, STOP)
    harm(root)
    with pytest.raises(DataError, match=rf"{code}: (.|\n)*on_error: exclude"):
        run(root, kind, STOP)
    after, found = run(root, kind, EXCLUDE)
    assert code not in unharmed
    assert found[code]
    assert lost is None or lost in before
    assert after == before - {lost}


def test_findings_are_written_even_if_they_stop(root):
    run(root, "chexpert", STOP)
    before = list(read_films(root.parent / "out/films"))
    edit(root / "chexpert/train.csv", set_cell(0, Edema="2.0"))
    with pytest.raises(DataError, match=r"label-unknown: Edema is '2\.0'"):
        run(root, "chexpert", STOP)
    rows = read_rows(root.parent / "out/findings.parquet")
    assert [row["code"] for row in rows if row["severity"] == "error"] == ["label-unknown"]
    assert list(read_films(root.parent / "out/films")) == before  # the old index stays


@pytest.mark.parametrize(
    ("kind", "table", "column"),
    [
        ("mimic_cxr", f"{MIMIC}-metadata.csv.gz", "ViewPosition"),
        ("chest_imagenome", f"{MIMIC}-split.csv", "split"),
        ("ms_cxr", PHRASES, "image_width"),
        ("chexpert", "chexpert/valid.csv", "Pneumonia"),
        ("chexpert_plus", PLUS, "section_findings"),
        ("vindr_cxr", VINDR, "x_min"),
        ("padchest_gr", "padchest/master_table.csv", "split"),
    ],
)
def test_a_missing_table_or_column_is_named(root, kind, table, column):
    edit(root / table, lambda rows: [row.pop(column) for row in rows])
    with pytest.raises(DataError, match=rf"lacks the columns \['{column}'\]"):
        run(root, kind, EXCLUDE)
    if table != "chexpert/valid.csv":  # that one may be missing
        (root / table).unlink()
        with pytest.raises(DataError, match=r"does not exist|has 0 tables"):
            run(root, kind, EXCLUDE)


def test_a_missing_split_or_folder_is_told(root):
    (root / "chexpert/test.csv").unlink()
    assert run(root, "chexpert", STOP)[1] == {"split-missing": [""]}
    shutil.rmtree(root / "mimic_reports")
    with pytest.raises(DataError, match="a folder of source `mimic_cxr` does not exist"):
        run(root, "mimic_cxr", STOP)


def test_an_index_without_a_sound_film_is_refused(root):
    shutil.rmtree(root / "padchest/images_grounding")
    with pytest.raises(DataError, match="image-missing"):
        run(root, "padchest_gr", EXCLUDE)


def test_damaged_tables_are_refused(root):
    path = root / f"{MIMIC}-metadata.csv.gz"
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(DataError, match="is no CSV table"):
        run(root, "mimic_cxr", EXCLUDE)
    (root / "chexpert_plus/chexbert_labels/report_fixed.json").write_text('{"path_to_image": 1}\n')
    with pytest.raises(DataError, match="line 1"):
        run(root, "chexpert_plus", EXCLUDE)


def test_missing_labels_and_odd_reports_are_warned_about(root):
    edit(root / f"{MIMIC}-chexpert.csv.gz", drop("study_id", "50414269"))
    texts = root / "mimic_reports/files/p10"
    (texts / "p10000032/s50414267.txt").write_bytes(b"\xff\xfe")
    (texts / "p10000032/s50414268.txt").write_text(" FINDINGS: \n\n IMPRESSION: \n")
    films, found = run(root, "mimic_cxr", STOP)
    assert len(films) == 8
    assert found == {
        "labels-missing": [name(1, 2)],
        "report-unreadable": [name(0, 0)],
        "report-empty": [name(0, 1)],
        "report-missing": [name(4, 8)],
    }


def test_a_box_twice_is_kept_once_and_one_slightly_outside_is_clipped(root):
    edit(root / PHRASES, lambda rows: rows.append(rows[-1]))
    edit(root / PHRASES, set_cell(0, x=-2))
    found = run(root, "ms_cxr", STOP)[1]
    assert found["box-duplicate"] == [name(5, 10)]
    assert found["box-clipped"] == [name(0, 1)]
    film = {one.image_id: one for one in read_films(root.parent / "out/films")}[name(0, 1)]
    assert film.regions[0].box[0] == 0


def test_files_with_the_same_bytes_link_their_patients(tmp_path):
    hashed = [("s/a", "p1", "x"), ("s/b", "p2", "x"), ("s/c", "p1", "y"), ("t/d", "p1", "y")]
    with Findings(tmp_path / "findings.parquet") as findings:
        assert same_images(hashed, findings) == [("p1", "p2")]
    rows = read_rows(tmp_path / "findings.parquet")
    assert [(row["code"], row["case"]) for row in rows] == [
        ("image-duplicate", "s/b"),
        ("image-duplicate", "t/d"),
    ]


def test_no_image_is_decoded(root, monkeypatch):
    monkeypatch.setattr(Image.Image, "load", lambda self: pytest.fail("decoded"))
    for kind in SOURCES:
        assert run(root, kind, STOP)[0]
