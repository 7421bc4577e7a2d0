"""Tables of films that users wrote: what is read, what is refused, and which tasks they feed."""

import re
from collections import Counter
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from chest_films import GEOMETRY, MEDIA
from PIL import Image

from medtune.config.chest_sources import (
    ChestSourceConfig,
    ChestSplitsConfig,
    ChestVerificationConfig,
)
from medtune.models.box_format import PIXEL_BOXES
from medtune.records.film import Film
from medtune.runtime.errors import DataError
from medtune.runtime.tables import read_rows
from medtune.sources.chest.index import read_films, source_films, write_films
from medtune.sources.chest.issues import Issues
from medtune.sources.chest.labels import DEVICES, LABELS
from medtune.sources.chest.splits import assign, published_splits
from medtune.tasks.chest.samples import Extras, make_samples
from medtune.tasks.chest.xray import PARTS

REPORT = "FINDINGS: A mass.\nIMPRESSION: Mass."
HEADER = (
    "image;patient;study;split;view;sex;report;Cardiomegaly;pleural_effusion;No Finding;age;site"
)
ROWS = f"""{HEADER}
a/1.png;P1;1;train;PA;M;a/1.txt;1;0;;54;Zürich
a/2.png;P1;1;training;ap;female;;1;-1;;54;Zürich
b/1.png;P2;1;test;PA;F;"The heart is large.";absent;present;;71;Genf
b/2.png;P3;;;;;;;;1;;
b/3.png;P3;;;Lateral;;;;;;;

"""
BOXES = """image,class,x1,y1,x2,y2,reader
a/1.png,Mass,10,10,30,30,R1
a/1.png,Mass,12,10,30,30,R2
./b/1.png,Effusion,0,40,20,60,R1
b/2.png,No finding,,,,,R1
"""


def write(root: Path, rows: str = ROWS, boxes: str | None = BOXES) -> Path:
    for name in ("a/1", "a/2", "b/1", "b/2", "b/3"):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.arange(80 * 96, dtype=np.uint8).reshape(80, 96)).save(
            root / f"{name}.png"
        )
    (root / "a/1.txt").write_text(REPORT)
    (root / "films.csv").write_text(rows)
    if boxes is not None:
        (root / "boxes.csv").write_text(boxes)
    return root


def config(root: Path, **changes) -> ChestSourceConfig:
    boxes = {"boxes": "boxes.csv"} if (root / "boxes.csv").exists() else {}
    given = {"name": "mine", "kind": "table", "root": str(root), "table": "films.csv"}
    return ChestSourceConfig(**given | boxes | changes)


def load(root: Path, **changes) -> tuple[dict[str, Film], Counter, list[dict]]:
    table = root / "findings.parquet"
    with Issues(table) as findings:
        found = source_films(config(root, **changes), ChestVerificationConfig(), findings)
        films = {film.image_id: film for film in found}
        findings.counts.pop(("warning", "image-unnamed"), None)  # of what no row is about
    return films, findings.counts, read_rows(table)


def test_a_table_is_read(tmp_path):
    films, counts, _ = load(write(tmp_path), groups=["age", "site"])
    assert not counts
    assert list(films) == ["a_1", "a_2", "b_1", "b_2"]
    first, second, third, fourth = films.values()
    assert first.report == {"findings": "A mass.", "impression": "Mass."}
    assert (first.patient_id, first.study_id, first.split) == ("mine/P1", "P1_1", "train")
    assert (second.view, second.sex) == ("AP", "female")
    assert second.labels == {"Cardiomegaly": "present", "Pleural Effusion": "uncertain"}
    assert third.labels == {"Cardiomegaly": "absent", "Pleural Effusion": "present"}
    assert third.report["last_paragraph"] == "The heart is large."
    assert [(one.name, one.box, one.reader) for one in first.regions] == [
        ("Mass", (10, 10, 30, 30), "R1"),
        ("Mass", (12, 10, 30, 30), "R2"),
    ]
    assert (first.width, first.height) == (96, 80)
    assert fourth.no_finding is True
    assert fourth.labels == {"Cardiomegaly": "absent", "Pleural Effusion": "absent"}
    assert first.groups == {"age": "54", "site": "Zürich"}
    assert all(film.listed for film in films.values())


def test_the_index_keeps_what_a_table_says(tmp_path):
    films, _, _ = load(write(tmp_path / "data"), groups=["age", "site"])
    folder = tmp_path / "index"
    folder.mkdir()
    write_films(films.values(), folder, 5000)
    assert list(read_films(folder)) == list(films.values())


def test_parquet_with_boxes_in_the_same_table(tmp_path):
    write(tmp_path, boxes=None)
    row = {"image": str(tmp_path / "a/1.png"), "patient": 7, "Edema": True, "Fracture": False}
    box = {"class": "Mass", "x": 10.0, "y": 10.0, "w": 20.0, "h": 5.0}
    pd.DataFrame(
        [row | box, row | box | {"x": 40.0, "class": None, "phrase": "a line"}]
    ).to_parquet(tmp_path / "films.parquet")
    films, counts, _ = load(tmp_path, table="films.parquet")
    assert not counts
    (film,) = films.values()
    assert film.labels == {"Edema": "present", "Fracture": "absent"}
    assert [(one.kind, one.name, one.box) for one in film.regions] == [
        ("abnormality", "Mass", (10, 10, 30, 15)),
        ("phrase", "a line", (40, 10, 60, 15)),
    ]


def test_patients_of_a_cohort_share_their_split(tmp_path):
    films, _, _ = load(write(tmp_path), cohort="mimic")
    film = films["b_1"]  # published for test
    assert film.patient_id == "mimic/P2"
    folder = tmp_path / "index"
    folder.mkdir()
    other = film.model_copy(update={"source": "other", "split": "train"})
    write_films([film], folder, 10)
    write_films([other], folder, 10, first=1)
    assert assign(published_splits(folder), ChestSplitsConfig(), 1) == {"mimic/P2": "test"}


HEAD = "image,patient"


@pytest.mark.parametrize(
    ("rows", "code", "words"),
    [
        (f"{HEAD},split\n\na/1.png,P,dev2\n", "split-unknown", r"films.csv, line 3: .*'dev2'"),
        (f"{HEAD},sex\na/1.png,P,x\n", "sex-unknown", "line 2"),
        (f"{HEAD},Edema,x_note\na/1.png,P,2,s\n", "label-unknown", "line 2: Edema is '2'"),
        (f"{HEAD}\na/1.png,\n", "row-invalid", "patient ''"),
        (f"{HEAD}\n../1.png,P\n", "path-outside", "1.png"),
        (f"{HEAD}\n/etc/1.png,P\n", "path-outside", "1.png"),
        (f"{HEAD}\na/9.png,P\n", "image-missing", "a/9.png"),
        (f"{HEAD}\na/1.png,P\na/1.png,Q\n", "id-duplicate", "differ"),
        (f"{HEAD},report\na/1.png,P,a/7.txt\n", "report-missing", r"did you mean `1.txt`"),
        (
            f"{HEAD},study,findings\na/1.png,P,1,A mass.\na/2.png,P,1,No mass.\n",
            "report-contradicts",
            "another report",
        ),
    ],
)
def test_rows_that_cannot_be_used_say_their_line(tmp_path, rows, code, words):
    films, counts, found = load(write(tmp_path, rows, boxes=None))
    assert counts["error", code] == 1
    (row,) = [one for one in found if one["code"] == code]
    assert re.search(words, f"{row['case']} {row['found']}")
    assert len(films) == (1 if code in ("report-contradicts",) else 0)


@pytest.mark.parametrize(
    ("rows", "code", "words"),
    [
        ("image,class,x1,y1,x2,y2\na/1.png,Mass,1,a,3,4\n", "box-unreadable", "boxes.csv, line 2"),
        ("image,class,x1,y1,x2,y2\na/1.png,,1,2,3,4\n", "box-unreadable", "line 2"),
        ("image,class,x1,y1,x2,y2\na/1.png,M,3,2,1,4\n", "box-invalid", "M at"),
        ("image,class,x1,y1,x2,y2\na/1.png,M,3,2,999,4\n", "box-outside", "in 96x80"),
        ("image,class,x1,y1,x2,y2\n\na/8.png,M,3,2,9,4\n", "id-unmatched", "boxes.csv, line 3"),
        ("image,class,x1,y1,x2,y2\nb/2.png,M,3,2,9,4\n", "labels-contradict", "beside a box"),
    ],
)
def test_boxes_that_cannot_be_used_say_their_line(tmp_path, rows, code, words):
    _, counts, found = load(write(tmp_path, boxes=rows))
    assert counts["error", code] == 1
    assert any(re.search(words, one["found"]) for one in found if one["code"] == code)


@pytest.mark.parametrize(
    ("rows", "changes", "words"),
    [
        ("picture,patient\n", {}, "expected image"),
        (
            f"{HEAD},Cardiomegali\na/1.png,P,1\n",
            {},
            "holds labels.*\n.*did you mean `Cardiomegaly`",
        ),
        (f"{HEAD},c\na/1.png,P,1\n", {"label_columns": {"c": "Oedema"}}, "did you mean 'Edema'"),
        (f"{HEAD}\na/1.png,P\n", {"groups": ["age"]}, r"lacks the columns \['age'\]"),
        (f"{HEAD},class,x1\na/1.png,P,M,1\n", {}, "x1, y1, x2, y2 or x, y, w, h"),
        (f"{HEAD},class,x1,y1,x2,y2\na/1.png,P,M,.1,.2,.5,1\n", {}, "fractions, expected pixels"),
    ],
)
def test_tables_that_cannot_be_used_say_what_to_do(tmp_path, rows, changes, words):
    with pytest.raises(DataError, match=f"(?s){words}"):
        load(write(tmp_path, rows, boxes=None), **changes)


def test_columns_that_are_not_read_are_said(tmp_path):
    rows = f"{HEAD},finding,kidney\na/1.png,P,A mass.,x\n"
    _, counts, found = load(write(tmp_path, rows, boxes=None))
    assert counts == {("warning", "column-unused"): 2}
    assert "did you mean `findings`?" in found[0]["remedy"]


def test_a_label_may_have_another_column(tmp_path):
    rows = f"{HEAD},enlarged heart\na/1.png,P,1\n"
    films, counts, _ = load(
        write(tmp_path, rows, boxes=None), label_columns={"enlarged heart": "Cardiomegaly"}
    )
    assert films["a_1"].labels == {"Cardiomegaly": "present"}
    assert not counts


@pytest.mark.parametrize(
    "changes",
    [{"table": None}, {"kind": "padchest"}, {"groups": ["size"]}, {"reports": "x"}],
)
def test_keys_that_do_not_fit_the_kind_are_refused(tmp_path, changes):
    with pytest.raises(ValueError, match=r"table|groups|reports"):
        config(tmp_path, **changes)


def asked(film: Film, **extras):
    return {one.task: one for one in make_samples(film, GEOMETRY, MEDIA, "train", Extras(**extras))}


def test_a_film_of_few_labels_is_asked_for_these_alone():
    film = Film(
        source="mine",
        image_id="1",
        study_id="1",
        patient_id="mine/1",
        split="train",
        path="1.png",
        labels={"Pneumothorax": "absent", "Edema": "absent", "Fracture": "uncertain"},
        no_finding=True,
        listed=True,
        groups={"site": "A"},
    )
    sample = asked(film)["abnormality_classification"]
    assert sample.truth == {"present": [], "absent": ["Edema", "Pneumothorax"], "listed": True}
    assert "edema and pneumothorax" in sample.prompt
    assert "fracture" not in sample.prompt
    assert sample.target == "There is no edema, no pneumothorax."
    assert sample.meta["groups"] == {"site": "A"}
    part = PARTS[sample.task]
    for present in (set(), {"Edema"}, {"Pneumothorax"}, {"Edema", "Pneumothorax"}):
        labels = {
            one: "present" if one in present else "absent" for one in ("Edema", "Pneumothorax")
        }
        one = asked(film.model_copy(update={"labels": labels}))["abnormality_classification"]
        assert one.prompt == sample.prompt  # which tells nothing of the answer
        answer = part.parse(one.target, one, PIXEL_BOXES)
        assert answer.present == present
        assert part.measure(answer, one) == {"f1": 1.0, "exact": 1.0}


@pytest.mark.parametrize("present", [(), *[(label,) for label in LABELS if label != DEVICES]])
def test_the_denial_of_listed_labels_is_read_back(present):
    labels = {one: "present" if one in present else "absent" for one in LABELS if one != DEVICES}
    film = Film(
        **{"source": "m", "image_id": "1", "study_id": "1", "patient_id": "m/1", "split": None},
        **{"path": "1.png", "labels": labels, "listed": True},
    )
    sample = asked(film)["abnormality_classification"]
    answer = PARTS[sample.task].parse(sample.target, sample, PIXEL_BOXES)
    assert answer.present == set(present)
    if not present:
        assert answer.absent == set(labels)
