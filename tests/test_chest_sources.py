"""Chest-film sources: every loader against exact expectations, on its published layout."""

import shutil
from collections import Counter
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from chest_data import CLEAR, SIZE, WORDS, ChestData, write_chest_data
from PIL import Image
from pydantic import ValidationError

from medtune.config.chest_sources import ChestSourceConfig, ChestVerificationConfig, LabelPolicy
from medtune.records.film import Film
from medtune.runtime.errors import DataError
from medtune.sources.chest.index import read_films, source_films, write_index
from medtune.sources.chest.issues import Issues
from medtune.sources.chest.labels import LABELS

A, B, C = "aaaaaaaa", "bbbbbbbb", "cccccccc"
ALL_ABSENT = dict.fromkeys(LABELS, "absent")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> ChestData:
    return write_chest_data(tmp_path_factory.mktemp("chest"), patients=6, seed=0)


def config(data: ChestData, kind: str, **changes) -> ChestSourceConfig:
    given = next(source for source in data.sources if source["kind"] == kind)
    return ChestSourceConfig(**given | changes)


def load(data: ChestData, kind: str, tmp_path: Path, **changes):
    """Return the films by id, and the findings by (severity, code)."""
    with Issues(tmp_path / "findings.parquet") as findings:
        found = source_films(config(data, kind, **changes), ChestVerificationConfig(), findings)
        films = {film.image_id: film for film in found}
    return films, dict(findings.counts)


def dicom(patient: int, number: int, view: str = A) -> str:
    return f"{patient:08x}-{number:08x}-{view}-{B}-{C}"


def boxes(film: Film) -> list[tuple[str, tuple[float, ...]]]:
    return [(region.name, region.box) for region in film.regions]


def test_mimic_is_joined_with_split_labels_and_reports(data, tmp_path):
    films, found = load(data, "mimic_cxr", tmp_path)
    assert found == {("warning", "report-missing"): 1}
    assert list(films) == [dicom(*one) for one in PATIENTS_AND_STUDIES]
    assert films[dicom(0, 0)] == Film(
        source="mimic_cxr",
        image_id=dicom(0, 0),
        study_id="s50414267",
        patient_id="mimic/p10000032",
        split="train",
        path=f"files/p10/p10000032/s50414267/{dicom(0, 0)}.jpg",
        view="PA",
        width=SIZE[0],
        height=SIZE[1],
        labels=ALL_ABSENT | {"Support Devices": "present"},
        no_finding=True,
        report={"findings": CLEAR, "impression": CLEAR},
    )
    assert films[dicom(0, 1)].report == {"impression": WORDS["Cardiomegaly"]}
    assert films[dicom(0, 1)].labels == {"Cardiomegaly": "present", "Pneumothorax": "absent"}
    assert films[dicom(2, 4)].labels == {}  # a row that says nothing
    assert films[dicom(2, 4)].report == {"last_paragraph": WORDS["Pleural Effusion"]}
    assert films[dicom(3, 6)].report == {"findings": CLEAR, "impression": "None acute."}
    assert films[dicom(3, 7)].labels["Pneumonia"] == "uncertain"
    assert films[dicom(4, 8)].report == {}
    assert [films[dicom(i, 2 * i)].split for i in range(6)] == ["train"] * 4 + ["val", "test"]


PATIENTS_AND_STUDIES = [(0, 0), (0, 1), (1, 2), (2, 4), (3, 6), (3, 7), (4, 8), (5, 10)]


def test_views_are_chosen_and_reports_may_be_left_out(data, tmp_path):
    films, found = load(data, "mimic_cxr", tmp_path, views=[], reports=None)
    lateral = dicom(0, 0, "dddddddd")
    assert films[lateral].view == "LATERAL"
    assert films[lateral].study_id == films[dicom(0, 0)].study_id
    assert len(films) == 14
    assert not found
    assert not any(film.report for film in films.values())


def test_the_policy_is_shared_by_all_sources_of_labels(data, tmp_path):
    policy = LabelPolicy(uncertain="ones", blank="absent")
    said = ALL_ABSENT | {"Cardiomegaly": "present", "Pneumonia": "present"}
    for kind, name in (
        ("mimic_cxr", dicom(3, 7)),
        ("chexpert", "patient00001_study1_view1_frontal"),
        ("chexpert_plus", "patient00001_study1_view1_frontal"),
    ):
        film = load(data, kind, tmp_path, labels=policy)[0][name]
        assert film.labels | {"Support Devices": "absent"} == said, kind
        assert film.no_finding is False


def test_imagenome_adds_the_anatomy_in_pixels_and_its_own_split(data, tmp_path):
    films, found = load(data, "chest_imagenome", tmp_path)
    assert found == {("warning", "graph-missing"): 1, ("warning", "box-clipped"): 7}
    assert dicom(0, 1) not in films
    film = films[dicom(5, 10)]
    assert boxes(film) == [
        ("right lung", (10, 8, 43, 72)),
        ("left lung", (53, 8, 88, 72)),
        ("cardiac silhouette", (36, 36, 69, 64)),
        ("right costophrenic angle", (0, 64, 19, 78)),  # -1 is clipped
    ]
    assert {region.kind for region in film.regions} == {"anatomy"}
    assert (film.split, film.sex, film.patient_id) == ("test", "male", "mimic/p10000117")
    assert films[dicom(3, 7)].sex == "female"


def test_ms_cxr_adds_phrases_with_report_and_labels_of_mimic(data, tmp_path):
    films, found = load(data, "ms_cxr", tmp_path)
    assert found == {("warning", "id-spelling"): 1, ("warning", "report-missing"): 1}
    own = [dicom(*one) for one in PATIENTS_AND_STUDIES if data.lesions[dicom(*one)]]
    assert list(films) == own
    for name, film in films.items():
        drawn = [(WORDS[label].rstrip("."), box) for label, box in data.lesions[name]]
        assert boxes(film) == drawn
        assert film.path.endswith(f"{name}.jpg")
    film = films[dicom(0, 1)]  # its id is in capitals in the table
    assert film.report == {"impression": WORDS["Cardiomegaly"]}
    assert film.labels["Cardiomegaly"] == "present"
    assert (film.split, film.patient_id) == ("train", "mimic/p10000032")


def test_chexpert_reads_its_three_tables(data, tmp_path):
    films, found = load(data, "chexpert", tmp_path)
    assert not found
    assert {name: film.split for name, film in films.items()} == {
        f"patient{i + 1:05d}_study1_view1_frontal": split
        for i, split in enumerate(["train"] * 4 + ["val", "test"])
    }
    assert films["patient00002_study1_view1_frontal"] == Film(
        source="chexpert",
        image_id="patient00002_study1_view1_frontal",
        study_id="patient00002_study1",
        patient_id="chexpert/patient00002",
        split="train",
        path="train/patient00002/study1/view1_frontal.jpg",
        view="AP",
        sex="female",
        labels={"Consolidation": "present", "Pneumothorax": "present"},
        no_finding=False,
    )
    tested = films["patient00006_study1_view1_frontal"]
    assert (tested.view, tested.sex, tested.no_finding) == ("FRONTAL", None, True)
    assert load(data, "chexpert", tmp_path, views=["LATERAL"])[0].keys() == {
        f"patient{i:05d}_study1_view1_lateral" for i in (2, 4, 6)
    }


def test_chexpert_plus_joins_reports_and_labels_by_path(data, tmp_path):
    films, found = load(data, "chexpert_plus", tmp_path)
    assert not found
    assert [film.split for film in films.values()] == ["train"] * 4 + ["val"]
    film = films["patient00002_study1_view1_frontal"]
    said = f"{WORDS['Consolidation']} {WORDS['Pneumothorax']}".lower()
    assert film.report == {
        "findings": said,
        "impression": f"1. {said} 2. no other abnormality.",
        "end_of_impression": "end of impression",
    }
    present = {"Consolidation": "present", "Pneumothorax": "present"}
    assert film.labels == present | {"Pneumonia": "uncertain"}
    assert (film.patient_id, film.sex) == ("chexpert/patient00002", "female")
    assert "findings" not in films["patient00001_study1_view1_frontal"].report


def test_vindr_keeps_every_readers_boxes(data, tmp_path):
    films, found = load(data, "vindr_cxr", tmp_path)
    assert not found
    names = [f"{i:032x}" for i in range(6)]
    assert list(films) == names
    assert [films[name].no_finding for name in names] == [True, False, False, True, False, False]
    assert [films[name].sex for name in names] == [None, "female", "male", None, None, "female"]
    film = films[names[2]]
    first, second = (box for _, box in data.lesions[names[2]])
    drawn = [(one.name, one.reader, one.box) for one in film.regions]
    assert [one for one in drawn if one[0] == "Consolidation"] == [
        ("Consolidation", "R8", first),
        ("Consolidation", "R9", first),
        ("Consolidation", "R10", (first[0] - 1, first[1] - 1, first[2] + 1, first[3] + 1)),
    ]
    assert [one[1] for one in drawn if one[0] == "Pneumothorax"] == ["R8", "R10"]
    assert ("Pneumothorax", "R8", second) in drawn
    assert (film.width, film.height, film.path) == (*SIZE, f"train/{names[2]}.dicom")
    assert all(region.reader is None for region in films[names[5]].regions)
    assert films[names[5]].split == "test"


def test_padchest_reads_sentences_boxes_and_both_languages(data, tmp_path):
    films, found = load(data, "padchest_gr", tmp_path)
    assert not found
    film = films["2160001_film_001"]
    assert film.report == {
        "findings": f"{WORDS['Cardiomegaly']} The bones are normal.",
        "spanish": "hallazgo . ver",
    }
    label, box = data.lesions["2160001_film_001.png"][0]
    assert [region.name for region in film.regions] == [WORDS[label]]
    assert film.regions[0].box == pytest.approx(box)
    assert (film.patient_id, film.view, film.sex) == ("padchest/900", "PA", "female")
    assert films["2160000_film_000"].patient_id == "padchest/900"
    assert films["2160000_film_000"].no_finding is True
    assert films["2160002_film_002"].sex is None
    splits = [film.split for film in films.values()]
    assert splits == ["train"] * 4 + ["val", "test"]


def test_the_index_is_written_in_shards_and_read_back(data, tmp_path):
    sources = [ChestSourceConfig(**source) for source in data.sources]
    small, large = (ChestVerificationConfig(shard_size=size) for size in (5, 1000))
    paths = tmp_path / "findings.parquet", tmp_path / "summary.json"
    write_index(sources, small, tmp_path / "small", *paths)
    write_index(sources, large, tmp_path / "large", *paths)
    films = list(read_films(tmp_path / "small"))
    assert films == list(read_films(tmp_path / "large"))
    shards = [pq.read_table(one).to_pylist() for one in sorted((tmp_path / "small").iterdir())]
    assert all(1 <= len(rows) <= 5 for rows in shards)
    assert all(len({row["source"] for row in rows}) == 1 for rows in shards)
    own = Counter(film.source for film in films)
    assert len(shards) == sum(-(-count // 5) for count in own.values())
    assert len({(film.source, film.image_id) for film in films}) == len(films) == 44
    assert {source["name"] for source in data.sources} == {film.source for film in films}
    write_index(sources, small, tmp_path / "again", *paths)
    for one in (tmp_path / "small").iterdir():
        assert one.read_bytes() == (tmp_path / "again" / one.name).read_bytes()


BATCHES = {
    "train": "CheXpert-v1.0 batch 2 (train 1)",
    "valid": "CheXpert-v1.0 batch 1 (validate & csv)/valid",
    "test": "CheXpert/test",
}


@pytest.mark.parametrize("small", [True, False], ids=["small", "parts"])
def test_chexpert_is_read_in_every_layout_of_its_downloads(data, tmp_path, small):
    """Parts hold patients side by side; tables lie in the first, and name the first release."""
    expected = load(data, "chexpert", tmp_path)[0]
    root = tmp_path / "parts"
    shutil.copytree(data.root / "chexpert", root / "CheXpert-v1.0-small")
    if not small:
        (root / "CheXpert-v1.0-small").rename(root / "whole")
        for split, part in BATCHES.items():
            (root / part).parent.mkdir(parents=True, exist_ok=True)
            (root / "whole" / split).rename(root / part)
        for table in (root / "whole").glob("*.csv"):
            text = table.read_text().replace("CheXpert-v1.0-small/", "CheXpert-v1.0/")
            (root / BATCHES["valid"]).with_name(table.name).write_text(text)
        shutil.rmtree(root / "whole")
    films, found = load(data, "chexpert", tmp_path, root=str(root))
    assert not found
    assert films.keys() == expected.keys()
    for name, film in films.items():
        split = expected[name].path.partition("/")[0]
        folder = f"CheXpert-v1.0-small/{split}" if small else BATCHES[split]
        assert film.path == f"{folder}/{expected[name].path.partition('/')[2]}"
        assert film == expected[name].model_copy(update={"path": film.path})


def test_chexpert_plus_finds_the_png_that_it_is_downloaded_with(data, tmp_path):
    root = Path(shutil.copytree(data.root / "chexpert_plus", tmp_path / "plus"))
    for path in (data.root / "chexpert").rglob("*.jpg"):
        copy = root / "PNG/PNG" / path.relative_to(data.root / "chexpert").with_suffix(".png")
        copy.parent.mkdir(parents=True, exist_ok=True)
        Image.open(path).save(copy)
    expected = load(data, "chexpert_plus", tmp_path)[0]
    films, found = load(data, "chexpert_plus", tmp_path, root=str(root), parent=None)
    assert found == {("warning", "image-renamed"): 5, ("warning", "image-unnamed"): 1}
    assert films.keys() == expected.keys()
    assert all(film.path.startswith("PNG/PNG/") for film in films.values())


def test_several_tables_of_chexpert_are_refused(data, tmp_path):
    for name in ("CheXpert-v1.0", "CheXpert-v1.0-small"):
        shutil.copytree(data.root / "chexpert", tmp_path / "both" / name)
    with pytest.raises(DataError, match=r"there is one in .*CheXpert-v1.0, .*CheXpert-v1.0-small"):
        load(data, "chexpert", tmp_path, root=str(tmp_path / "both"))


def test_sets_about_the_films_of_others_need_their_folder():
    with pytest.raises(ValidationError, match="need `parent`"):
        ChestSourceConfig(name="a", kind="ms_cxr", root="x")
    with pytest.raises(ValidationError, match="need `parent`"):
        ChestSourceConfig(name="a", kind="vindr_cxr", root="x", parent="y")
