"""What a data set of films leaves out is counted, and stands beside what was published."""

import csv
import gzip
import importlib.util
from collections import Counter, defaultdict
from pathlib import Path

import pytest
from chest_films import GEOMETRY, MEDIA, film, normal
from pydantic import ValidationError

from medtune.config import films as sections
from medtune.config.chest_sources import FusionConfig
from medtune.config.films import TASKS, FilmsConfig, FilmTextsPart
from medtune.dataset.film_account import (
    NO_TEXTS,
    NOT_HERE,
    Account,
    add_index,
    check_sources,
    write_account,
)
from medtune.records.film import Film, Region
from medtune.runtime.errors import DataError
from medtune.runtime.files import write_json
from medtune.sources.chest.fusion import fuse, fuse_boxes, undecided
from medtune.tasks.chest.published_mix import PUBLISHED
from medtune.tasks.chest.samples import OPEN, UNDECIDED, Extras, LeftOut, make_samples

STRICT = FusionConfig(iou=0.5, min_readers=2)
VINDR = frozenset(TASKS["vindr_cxr"])
CORNERS = ("x_min", "y_min", "x_max", "y_max")


def drawn(name: str, reader: str | None, by: int = 0) -> Region:
    box = (200 + by, 200, 700 + by, 700)
    return Region(kind="abnormality", name=name, box=box, reader=reader)


def read(number: int, *regions: Region, **changes) -> Film:
    return film(number, split="train", regions=regions, **changes)


def asked(one: Film, config: FusionConfig, account: Account, tasks=VINDR) -> dict[str, list]:
    """The truths of a film by task, after fusion; what is left out goes to the account."""
    fused = fuse(one, config)
    account.fused(one, fused)
    extras = Extras(tasks=tasks, undecided=undecided(one, fused), dropped=account.left_out)
    found = defaultdict(list)
    for sample in make_samples(fused, GEOMETRY, MEDIA, "train", extras):
        account.sampled(sample)
        found[sample.task].append(sample.truth)
    return found


MIXED = (drawn("ILD", "R1"), drawn("ILD", "R2", 20), drawn("Mass", "R1"))


def test_what_one_reader_drew_is_kept_as_published():
    found = asked(read(0, *MIXED), FusionConfig(), account := Account())
    assert [truth["name"] for truth in found["abnormality_grounding"]] == ["ILD", "Mass"]
    names = [one["name"] for one in found["abnormality_detection"][0]["findings"]]
    assert names == ["ILD", "Mass"]
    assert account.left_out == {}


def test_what_too_few_readers_drew_is_neither_there_nor_absent():
    found = asked(read(0, *MIXED), STRICT, account := Account())
    assert [truth["name"] for truth in found["abnormality_grounding"]] == ["ILD"]
    assert "abnormality_detection" not in found  # no list without the mass would be right
    assert account.left_out == {
        LeftOut("made", "abnormality_detection", "film", UNDECIDED): 1,
        LeftOut("made", "abnormality_grounding", "film and class", UNDECIDED): 1,
    }
    fusion = {key: tuple(vars(one).values()) for key, one in account.fusion.items()}
    assert fusion == {("made", "ILD"): (1, 1, 2, 1), ("made", "Mass"): (1, 0, 1, 0)}


def test_no_label_denies_what_a_reader_drew():
    denied = {"Edema": "absent", "Pneumonia": "absent", "Fracture": "present"}
    one = read(0, drawn("edema", "R1"), drawn("Fracture", "R1"), labels=denied, no_finding=True)
    fused = fuse(one, STRICT)
    assert fused.labels == {"Pneumonia": "absent", "Fracture": "present"}
    assert fused.no_finding is None
    assert fuse(one, FusionConfig()).labels == denied


def test_a_normal_film_has_no_readers_box():
    well = normal().model_copy(update={"split": "train"})
    assert asked(well, STRICT, Account())["abnormality_detection"] == [{"findings": []}]
    doubted = read(1, drawn("Mass", "R1"), no_finding=True)
    assert asked(doubted, STRICT, Account()) == {}
    disagreed = read(2, no_finding=None)
    account = Account()
    assert asked(disagreed, STRICT, account) == {}
    assert account.left_out[LeftOut("made", "abnormality_detection", "film", OPEN)] == 1


def test_every_film_gives_samples_of_a_task_or_is_counted_once():
    bad = Region(kind="anatomy", name="heart", box=(2100, 0, 2200, 10))
    films = [film(), normal(), read(1, *MIXED), read(2, bad), film(3, labels={}, regions=())]
    account, tasks = Account(), frozenset(one.task for one in PUBLISHED)
    gave = Counter()
    for one in films:
        gave.update(asked(one, STRICT, account, tasks).keys())
    for task in tasks:
        missed = sum(n for key, n in account.left_out.items() if key[1:3] == (task, "film"))
        assert gave[task] + missed == len(films)


def config(**changes) -> FilmTextsPart:
    sources = [
        {"name": "vin", "kind": "vindr_cxr", "root": "/x"},
        {"name": "mimic", "kind": "mimic_cxr", "root": "/y"},
    ]
    return FilmTextsPart(sources=sources, **changes)


def filled() -> Account:
    account = Account()
    account.samples[("vin", "abnormality_grounding", "train")] = 5
    account.samples[("vin", "abnormality_detection", "test")] = 2
    account.samples[("mimic", "report_generation", "train")] = 3
    account.left_out[LeftOut("vin", "abnormality_detection", "film", UNDECIDED)] = 4
    account.reports["mimic"], account.priors["mimic"] = 3, 2
    account.fused(read(0, *MIXED, source="vin"), fuse(read(0, *MIXED, source="vin"), STRICT))
    return account


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_the_published_table_is_beside_what_is_here(tmp_path: Path, capsys):
    write_account(filled(), config(), tmp_path)
    table = rows(tmp_path / "published.csv")
    assert [(one["task"], one["kind"]) for one in table] == [(s.task, s.source) for s in PUBLISHED]
    assert sum(round(int(one["published_train"]) * float(one["weight"])) for one in table) == (
        pytest.approx(1_115_021, abs=1)
    )
    by_task = {(one["task"], one["kind"]): one for one in table}
    grounding = by_task["abnormality_grounding", "vindr_cxr"]
    assert [grounding[key] for key in ("train", "val", "test", "sources")] == ["5", "0", "0", "vin"]
    assert by_task["phrase_grounding", "ms_cxr"]["sources"] == NOT_HERE
    assert by_task["conversation", "mimic_cxr"]["sources"] == NO_TEXTS
    said = " ".join(capsys.readouterr().err.split())
    assert "abnormality_grounding vindr_cxr: 16,089 x 3, test 2,108; 5, 0, 0 (vin)" in said
    assert "warning: no sample is in `val`" in said
    assert "warning: mimic gives no sample of abnormality_classification" in said
    assert "mimic: 2 of 3 reports speak of earlier films" in said
    assert "`films.texts` with `filter` is off" in said


def test_what_was_left_out_is_written_by_source_task_and_reason(tmp_path: Path):
    account = filled()
    left_out = {
        "vin": {"film of the view AP, not in `views`": 3, "film or row with the error e": 1}
    }
    write_json(tmp_path / "summary.json", {"left_out": left_out})
    add_index(account, tmp_path / "summary.json")
    write_account(account, config(), tmp_path)
    written = [tuple(one.values()) for one in rows(tmp_path / "exclusions.csv")]
    assert written == [
        ("vin", "", "film", "film of the view AP, not in `views`", "3"),
        ("vin", "", "film or row", "film or row with the error e", "1"),
        ("vin", "abnormality_detection", "film", UNDECIDED, "4"),
        ("vin", "abnormality_grounding", "film and class", UNDECIDED, "1"),
    ]
    fusion = [tuple(one.values()) for one in rows(tmp_path / "fusion.csv")]
    assert fusion == [("vin", "ILD", "1", "1", "2", "1"), ("vin", "Mass", "1", "0", "1", "0")]


def test_a_source_without_a_sample_is_an_error_that_says_why():
    account = filled()
    check_sources(account, config())
    del account.samples[("mimic", "report_generation", "train")]
    account.left_out[LeftOut("mimic", "report_generation", "film", "no report")] = 7
    with pytest.raises(DataError, match=r"source mimic(.|\n)*7 x report_generation: no report"):
        check_sources(account, config())


def test_kinds_have_the_tasks_that_were_published_of_them():
    published = defaultdict(set)
    for share in PUBLISHED:
        published[share.source].add(share.task)
    assert {kind: set(TASKS[kind]) for kind in published} == published


def test_a_kind_without_a_task_is_refused_in_the_configuration(monkeypatch):
    source = {"name": "v", "kind": "vindr_cxr", "root": "/x"}
    FilmsConfig(sources=[source])
    monkeypatch.setitem(sections.TASKS, "vindr_cxr", ("conversation",))
    with pytest.raises(ValidationError, match=r"good for no task without films\.texts; kinds"):
        FilmsConfig(sources=[source])
    monkeypatch.delitem(sections.TASKS, "vindr_cxr")
    with pytest.raises(ValidationError, match=r"'v' is a vindr_cxr(.|\n)*ms_cxr: phrase_grounding"):
        FilmsConfig(sources=[source])


@pytest.mark.skipif(
    importlib.util.find_spec("torchxrayvision") is None,
    reason="torchxrayvision, whose wheel holds VinDr-CXR's training table, is not installed",
)
@pytest.mark.parametrize(
    ("min_readers", "overlap", "pairs", "boxes"),
    [(1, 0.1, 15_365, 20_821), (1, 0.5, 15_365, 23_904), (2, 0.5, 7_376, 8_164)],
)
def test_the_default_keeps_every_pair_of_the_real_table(min_readers, overlap, pairs, boxes):
    folder = Path(importlib.util.find_spec("torchxrayvision").origin).parent / "data"
    groups = defaultdict(list)
    with gzip.open(folder / "vinbigdata-train.csv.gz", "rt") as file:
        for row in csv.DictReader(file):
            if row["class_name"] != "No finding":
                box = tuple(float(row[corner]) for corner in CORNERS)
                groups[row["image_id"], row["class_name"]].append((row["rad_id"], box))
    fused = [
        fuse_boxes(own, FusionConfig(iou=overlap, min_readers=min_readers))
        for own in groups.values()
    ]
    assert (sum(map(bool, fused)), sum(map(len, fused))) == (pairs, boxes)
