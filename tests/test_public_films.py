"""Open-i, ChestX-ray14, RSNA, SIIM and PadChest: real tables, and small copies of the layouts."""

import csv
import gzip
import json
import re
import tarfile
import zipfile
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from chest_files import write_csv, write_dicom
from PIL import Image
from real_films import TABLES, linked, needs_tables

from medtune.config.chest_sources import ChestSourceConfig, ChestVerificationConfig, LabelPolicy
from medtune.config.films import FilmsConfig
from medtune.runtime.errors import DataError
from medtune.sources.chest.index import LOADERS, source_films, write_index
from medtune.sources.chest.issues import Issues
from medtune.sources.chest.open_i import film_name, read_xml, tag_names
from medtune.sources.chest.padchest import NAMES
from medtune.sources.chest.siim_pneumothorax import mask_box, mask_boxes, merged
from medtune.sources.chest.splits import assign, film_split, published_splits

RSNA_MAPPING = "pneumonia-challenge-dataset-mappings_2018.json"


def source(kind: str, root: Path, **changes) -> ChestSourceConfig:
    return ChestSourceConfig(name=kind, kind=kind, root=str(root), **changes)


def tabled(config: ChestSourceConfig, tmp_path: Path):
    """What the tables alone say, and the findings: films whose images are not there included."""
    with Issues(tmp_path / "findings.parquet") as findings:
        films = list(LOADERS[config.kind](config, findings))
    return films, dict(findings.counts)


def checked(config: ChestSourceConfig, tmp_path: Path):
    with Issues(tmp_path / "findings.parquet") as findings:
        films = list(source_films(config, ChestVerificationConfig(), findings))
        findings.counts.pop(("warning", "image-unnamed"), None)
    return films, dict(findings.counts)


def picture(path: Path, size=(1024, 1024)) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray((np.indices(size[::-1]).sum(0) % 256).astype(np.uint8)).save(path)


def said(films) -> Counter:
    return Counter(pair for film in films for pair in film.labels.items())


# The counts that torchxrayvision's tables and the papers give.
@needs_tables
def test_the_real_tables_of_chestxray14(tmp_path):
    names = ("Data_Entry_2017_v2020.csv.gz", "BBox_List_2017.csv.gz")
    films, found = tabled(source("nih_cxr14", linked(tmp_path / "nih", *names)), tmp_path)
    assert len(films) == 112_120
    assert len({film.patient_id for film in films}) == 30_805
    assert Counter(film.view for film in films) == {"PA": 67_310, "AP": 44_810}
    assert sum(film.no_finding is None for film in films) == 60_361
    labels = said(films)
    assert labels["Pleural Effusion", "present"] == 13_317
    assert labels["Pneumonia", "present"] == 1_431  # without the 19,894 infiltrations
    assert labels["Lung Lesion", "present"] == 11_207  # a mass, a nodule, or both
    assert all(len(film.labels) == 9 and film.listed for film in films)
    regions = [region for film in films for region in film.regions]
    assert Counter(region.name for region in regions) == {
        **{"Atelectasis": 180, "Effusion": 153, "Cardiomegaly": 146, "Infiltrate": 123},
        **{"Pneumonia": 120, "Pneumothorax": 98, "Mass": 85, "Nodule": 79},
    }
    boxed = next(film for film in films if film.image_id == "00013118_008")
    assert boxed.patient_id == "nih/13118"
    assert boxed.regions[0].box == pytest.approx((225.085, 547.019, 311.864, 626.206), abs=1e-3)
    assert found == {("warning", "label-left-out"): 4, ("warning", "split-missing"): 2}


@needs_tables
def test_the_real_table_of_rsna(tmp_path):
    root = tmp_path / "rsna"
    with zipfile.ZipFile(TABLES / "kaggle_stage_2_train_labels.csv.zip") as archive:
        archive.extractall(root)
    films, found = tabled(source("rsna_pneumonia", root), tmp_path)
    assert len(films) == 26_684
    assert sum(len(film.regions) for film in films) == 9_555
    assert said(films) == {("Lung Opacity", "present"): 6_012}
    assert set(found) == {("warning", "classes-missing"), ("warning", "patients-unknown")}


@needs_tables
def test_the_real_masks_of_siim_have_the_boxes_of_their_pixels(tmp_path):
    name = "siim-pneumothorax-train-rle.csv.gz"
    films, _ = tabled(source("siim_pneumothorax", linked(tmp_path / "siim", name)), tmp_path)
    assert said(films) == {("Pneumothorax", "absent"): 9_378, ("Pneumothorax", "present"): 2_669}
    with gzip.open(TABLES / name, "rt") as file:
        runs = [row[1].strip() for row in csv.reader(file) if row[1].strip()[:1].isdigit()]
    assert len(runs) == 3_576
    for one in runs[::60]:
        rows, columns = np.nonzero(decoded(one))
        expected = (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1)
        assert mask_box(one, (1024, 1024)) == expected


def decoded(runs: str, size: int = 1024) -> np.ndarray:
    """A mask (rows, columns), pixel by pixel."""
    flat, place = np.zeros(size * size, bool), 0
    numbers = [int(one) for one in runs.split()]
    for skipped, length in zip(numbers[::2], numbers[1::2], strict=True):
        place += skipped
        flat[place : place + length] = True
        place += length
    return flat.reshape(size, size).T


@needs_tables
def test_the_real_table_of_padchest(tmp_path):
    name = "PADCHEST_chest_x_ray_images_labels_160K_01.02.19.csv"
    with gzip.open(TABLES / f"{name}.gz", "rt") as file:
        lines = [line for _, line in zip(range(30_001), file, strict=False)]
    (tmp_path / "padchest").mkdir()
    (tmp_path / "padchest" / name).write_text("".join(lines))
    films, found = tabled(source("padchest", tmp_path / "padchest"), tmp_path)
    rows = [row for row in csv.DictReader(lines) if row["Projection"] in ("PA", "AP")]
    assert len(films) == len(rows) > 15_000
    labels = said(films)
    for label in ("Cardiomegaly", "Support Devices", "Fracture"):
        names = {*NAMES[label]}
        count = sum(bool(names & set(re.findall(r"' *(.*?)'", row["Labels"]))) for row in rows)
        assert labels[label, "present"] == count > 50
    assert found["warning", "label-left-out"] > 100
    assert not any("findings" in film.report for film in films)  # no text to learn
    assert {"error"} & {severity for severity, _ in found} == set()


@needs_tables
def test_the_real_reports_of_open_i(tmp_path):
    root = tmp_path / "open_i"
    with tarfile.open(TABLES / "NLMCXR_reports.tgz") as archive:
        archive.extractall(root, filter="data")
    films, found = tabled(source("open_i", root, views=[]), tmp_path)
    assert len(films) == 7_470
    assert len({film.patient_id for film in films}) == 3_955 - 104
    one = next(film for film in films if film.image_id == "1_IM-0001-3001")
    assert one.report["impression"] == "Normal chest x-XXXX."
    assert (one.no_finding, one.patient_id) == (True, "open_i/1")
    assert found["warning", "report-gaps"] > 3_000
    assert not any("<BR>" in text for film in films for text in film.report.values())
    with pytest.raises(DataError, match=r"indiana_projections.csv.*frontal"):
        tabled(source("open_i", root), tmp_path)


@pytest.fixture
def nih(tmp_path) -> Path:
    root = tmp_path / "nih"
    rows = [
        ("00000001_000.png", "Cardiomegaly|Emphysema", 1),
        ("00000001_001.png", "No Finding", 1),
        ("00000002_000.png", "Infiltration", 2),
    ]
    header = (
        "Image Index,Finding Labels,Follow-up #,Patient ID,Patient Age,Patient Gender,View "
        "Position,OriginalImage[Width,Height],OriginalImagePixelSpacing[x,y],\n"
    )
    lines = [
        f"{name},{labels},0,{who},57,M,PA,2682,2749,0.143,0.143,\n" for name, labels, who in rows
    ]
    root.mkdir()
    (root / "Data_Entry_2017.csv").write_text(header + "".join(lines))
    header = "Image Index,Finding Label,Bbox [x,y,w,h],,,\n"
    box = "00000001_000.png,Cardiomegaly,10,20,30,40,,,\n"
    (root / "BBox_List_2017.csv").write_text(header + box)
    (root / "train_val_list.txt").write_text("00000001_000.png\n00000001_001.png\n")
    (root / "test_list.txt").write_text("00000002_000.png\n")
    for number, (name, _, _) in enumerate(rows):
        picture(root / f"images_{number + 1:03d}/images/{name}")
    return root


def test_chestxray14_in_its_layout(nih, tmp_path):
    films, found = checked(source("nih_cxr14", nih), tmp_path)
    assert found == {("warning", "label-left-out"): 2}
    first, second, third = films
    assert first.path == "images_001/images/00000001_000.png"
    assert (first.labels["Cardiomegaly"], first.labels["Edema"]) == ("present", "absent")
    assert "Fracture" not in second.labels  # which "No Finding" does not deny
    assert set(second.labels.values()) == {"absent"}
    assert first.regions[0].box == (10, 20, 40, 60)
    assert [film.split for film in films] == ["train", "train", "test"]
    assert third.labels["Pneumonia"] == "absent"


@pytest.fixture
def rsna(tmp_path) -> Path:
    root = tmp_path / "rsna"
    labels = [
        ("a", 100, 200, 50, 60, 1),
        ("a", 600, 200, 50, 60, 1),
        ("b", "", "", "", "", 0),
        ("c", "", "", "", "", 0),
    ]
    columns = ("patientId", "x", "y", "width", "height", "Target")
    classes = {"a": "Lung Opacity", "b": "Normal", "c": "No Lung Opacity / Not Normal"}
    root.mkdir()
    write_csv(
        root / "stage_2_train_labels.csv", [dict(zip(columns, r, strict=True)) for r in labels]
    )
    write_csv(
        root / "stage_2_detailed_class_info.csv",
        [{"patientId": row[0], "class": classes[row[0]]} for row in labels],
    )
    for name in classes:
        (root / "stage_2_train_images").mkdir(exist_ok=True)
        pixels = (np.indices((1024, 1024)).sum(0) % 256).astype(np.uint16)
        write_dicom(root / f"stage_2_train_images/{name}.dcm", pixels, sex="F")
    return root


def test_rsna_in_its_layout(rsna, tmp_path):
    films, found = checked(source("rsna_pneumonia", rsna), tmp_path)
    assert found == {("warning", "patients-unknown"): 1}
    opaque, normal, other = films
    assert [region.box for region in opaque.regions] == [(100, 200, 150, 260), (600, 200, 650, 260)]
    assert normal.labels == {"Lung Opacity": "absent"}
    assert other.labels == {}  # it may have another kind of opacity
    assert (normal.sex, normal.width) == ("female", 1024)


def test_films_that_two_sets_share_stay_in_one_split(nih, rsna, tmp_path):
    both, check = (
        [source("nih_cxr14", nih), source("rsna_pneumonia", rsna)],
        ChestVerificationConfig(),
    )

    def index():
        folder = tmp_path / "index"
        write_index(both, check, folder, tmp_path / "f.parquet", tmp_path / "s.json")
        return folder

    with pytest.raises(DataError, match=r"rsna_pneumonia: 3 of its films .* \['nih_cxr14'\]"):
        index()
    images = {"a": "00000002_000.png", "b": "00000001_001.png", "c": "00000009_000.png"}
    mapping = [{"subset_img_id": one, "img_id": name} for one, name in images.items()]
    (rsna / RSNA_MAPPING).write_text(json.dumps(mapping))
    config = FilmsConfig(sources=both).splits
    splits = assign(published_splits(index()), config, seed=1)
    assert splits["nih/2"] == "test"  # also for the film that RSNA publishes for training
    films, _ = checked(both[1], tmp_path)
    assert film_split(films[0], splits, config) is None


def test_siim_in_its_layout(tmp_path):
    root = tmp_path / "siim"
    rows = ["1.2.3, 2050 5 1019 5", "1.2.4, -1", "1.2.5,-1", "1.2.5,0 1"]
    (root / "dicom-images-train/x/y").mkdir(parents=True)
    (root / "train-rle.csv").write_text("\n".join(["ImageId, EncodedPixels", *rows]))
    pixels = (np.indices((1024, 1024)).sum(0) % 256).astype(np.uint16)
    for name in ("1.2.3", "1.2.4", "1.2.5"):
        write_dicom(root / f"dicom-images-train/x/y/{name}.dcm", pixels)
    films, found = checked(source("siim_pneumothorax", root), tmp_path)
    assert found == {("warning", "patients-unknown"): 1, ("error", "mask-invalid"): 1}
    assert [film.image_id for film in films] == ["1.2.3", "1.2.4"]
    assert films[0].regions[0].box == (2, 2, 4, 7)  # two columns, rows 2 to 6
    assert films[1].labels == {"Pneumothorax": "absent"}


def test_masks_that_are_none_are_refused_and_those_that_overlap_joined():
    for runs in ("", "1", "1 0", "1 -1", "1 1000000", "a b"):
        with pytest.raises(ValueError, match=r"runs|invalid|ends"):
            mask_boxes([runs], (100, 100))
    assert merged([(0, 0, 2, 2), (5, 5, 7, 7), (1, 1, 6, 6), (8, 8, 9, 9)]) == [
        (0, 0, 7, 7),
        (8, 8, 9, 9),
    ]


def test_padchest_in_its_layout_and_its_policy(tmp_path):
    root, columns = tmp_path / "padchest", ("ImageID", "ImageDir", "PatientID", "StudyID")
    own = ["['normal']", "[' pneumonia', 'scoliosis', '']", "['unchanged']", "nan", "['scoliosis']"]
    rows = [
        dict(zip(columns, (f"{n}.png", "0", f"p{n}", f"s{n}"), strict=True))
        | {"Projection": "PA", "Report": "sin hallazg .", "Labels": labels, "PatientSex_DICOM": "M"}
        for n, labels in enumerate(own)
    ]
    root.mkdir()
    write_csv(root / "PADCHEST_chest_x_ray_images_labels_160K_01.02.19.csv", rows)
    for row in rows:
        picture(root / f"0/{row['ImageID']}", (64, 64))
    films, found = checked(source("padchest", root), tmp_path)
    assert [film.no_finding for film in films] == [True, False, None, None, False]
    assert films[1].labels == {"Pneumonia": "present"}
    assert films[1].patient_id == "padchest/p1"  # as in PadChest-GR
    assert found == {("warning", "labels-missing"): 1, ("warning", "label-left-out"): 1}
    policy = LabelPolicy(blank="absent")
    films, _ = checked(source("padchest", root, labels=policy), tmp_path)
    assert films[1].labels["Edema"] == films[4].labels["Edema"] == "absent"
    assert films[2].labels == {}  # the report said nothing of findings


def test_open_i_as_kaggle_has_it(tmp_path):
    root, names = tmp_path / "open_i", ("1_IM-0001-4001.dcm.png", "1_IM-0001-3001.dcm.png")
    report = {"uid": 1, "MeSH": "Opacity/lung/base/left;Thickening/pleura/right", "Problems": ""}
    report |= {"indication": "Cough", "comparison": "", "findings": "An opacity<BR>is seen."}
    root.mkdir()
    write_csv(root / "indiana_reports.csv", [report | {"impression": ""}])
    views = zip(names, ("Frontal", "Lateral"), strict=True)
    write_csv(
        root / "indiana_projections.csv",
        [{"uid": 1, "filename": name, "projection": view} for name, view in views],
    )
    picture(root / f"images/images_normalized/{names[0]}", (64, 64))
    films, found = checked(source("open_i", root), tmp_path)
    assert not found
    assert [(film.view, film.report["findings"]) for film in films] == [
        ("FRONTAL", "An opacity is seen.")
    ]
    assert films[0].labels == {"Lung Opacity": "present", "Pleural Other": "present"}
    _, found = checked(source("open_i", root, views=[]), tmp_path)
    assert found == {("error", "image-missing"): 1}  # the lateral film


def test_names_of_open_i_mean_one_film():
    names = ("CXR1_1_IM-0001-3001", "1_IM-0001-3001.dcm.png", "1_IM-0001-3001.dcm")
    assert {film_name(name) for name in names} == {("1", "1_IM-0001-3001")}
    assert film_name("CXR1000_IM-0003-1001.png") == ("1000", "1000_IM-0003-1001")
    assert tag_names("Mass/mediastinum;Mass/lung/hilum;normal") == ["mass", "mass/lung", "normal"]


def test_a_report_of_open_i_without_a_number_is_refused(tmp_path):
    (tmp_path / "1.xml").write_text("<eCitation><uId id='x'/></eCitation>")
    with pytest.raises(ValueError, match="uId is 'x'"):
        read_xml(tmp_path / "1.xml")
