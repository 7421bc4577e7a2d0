"""Faulty chest-film sources stop, or leave the film out with its reason; nothing is guessed."""

import shutil
from pathlib import Path

import pytest
from chest_data import write_chest_data
from chest_faults import (
    ERRORS,
    MIMIC,
    PHRASES,
    PLUS,
    VINDR,
    clear_size,
    drop,
    edit,
    graph,
    name,
    set_cell,
)
from PIL import Image

from medtune.config.chest_sources import ChestSourceConfig, ChestVerificationConfig
from medtune.runtime.errors import DataError
from medtune.runtime.files import read_json
from medtune.runtime.tables import read_rows
from medtune.sources.chest.index import read_films, write_index

STOP, EXCLUDE = (
    ChestVerificationConfig(on_error=one, max_excluded_fraction=1) for one in ("stop", "exclude")
)


@pytest.fixture(scope="module")
def clean(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_chest_data(tmp_path_factory.mktemp("chest"), patients=6, seed=0).root


@pytest.fixture
def root(clean: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(clean, tmp_path / "data"))


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


def test_too_many_errors_stop_all_the_same(root):
    for row in range(2):
        edit(root / "chexpert/train.csv", set_cell(row, Edema="2.0"))
    few = ChestVerificationConfig(on_error="exclude", max_excluded_fraction=0.1)
    with pytest.raises(
        DataError, match=r"source chexpert: 2 films or rows with errors beside \d+ sound films"
    ):
        run(root, "chexpert", few)
    assert run(root, "chexpert", EXCLUDE)[1]["label-unknown"]


def test_a_bad_part_of_the_body_loses_its_box_alone(root):
    before, _ = run(root, "chest_imagenome", STOP)
    films = list(read_films(root.parent / "out/films"))
    graph(root, lambda one: one.update(original_x1=60))
    after, found = run(root, "chest_imagenome", STOP)
    assert after == before
    assert len(found["box-invalid"]) == 1
    again = list(read_films(root.parent / "out/films"))
    assert sum(len(one.regions) for one in again) == sum(len(one.regions) for one in films) - 1


def test_a_film_without_its_size_loses_its_boxes_alone(root):
    before, _ = run(root, "chest_imagenome", STOP)
    edit(root / f"{MIMIC}-metadata.csv.gz", clear_size(name(1, 2)))
    after, found = run(root, "chest_imagenome", STOP)
    assert after == before
    assert found["size-unknown"] == [name(1, 2)]
    films = {film.image_id: film for film in read_films(root.parent / "out/films")}
    assert films[name(1, 2)].regions == ()


def test_findings_are_written_even_if_they_stop(root):
    run(root, "chexpert", STOP)
    before = list(read_films(root.parent / "out/films"))
    edit(root / "chexpert/train.csv", set_cell(0, Edema="2.0"))
    with pytest.raises(DataError, match=r"label-unknown: Edema is '2\.0' in line 2 of train\.csv"):
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
    assert run(root, "chexpert", STOP)[1] == {
        "split-missing": [""],
        "split-empty": [""],
        "image-unnamed": [""],
    }
    shutil.rmtree(root / "mimic_reports")
    with pytest.raises(DataError, match="a folder of source `mimic_cxr` does not exist"):
        run(root, "mimic_cxr", STOP)


def test_an_index_without_a_sound_film_is_refused(root):
    shutil.rmtree(root / "padchest/images_grounding")
    with pytest.raises(
        DataError, match=r"image-missing(.|\n)*no film of \['padchest_gr'\] is sound"
    ):
        run(root, "padchest_gr", EXCLUDE)


def test_a_source_without_a_film_is_refused_beside_others(root, tmp_path):
    sources = [
        ChestSourceConfig(name="a", kind="chexpert", root=str(root / "chexpert")),
        ChestSourceConfig(name="b", kind="vindr_cxr", root=str(root / "vindr"), views=["PA"]),
        ChestSourceConfig(name="c", kind="padchest_gr", root=str(root / "padchest"), views=["L"]),
    ]
    paths = [tmp_path / one for one in ("films", "findings.parquet", "summary.json")]
    write_index(sources[:2], EXCLUDE, *paths)  # VinDr tells no view: all its films are frontal
    with pytest.raises(DataError, match=r"sources \['c'\]: have no film"):
        write_index(sources, EXCLUDE, *paths)


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


def test_readers_who_disagree_make_no_normal_film(root):
    nothing = {"class_name": "No finding", "x_min": "", "y_min": "NaN", "x_max": "", "y_max": ""}
    edit(root / VINDR, set_cell(4, **nothing))
    run(root, "vindr_cxr", STOP)
    film = {one.image_id: one for one in read_films(root.parent / "out/films")}[f"{1:032x}"]
    assert film.no_finding is None
    assert [region.reader for region in film.regions] == ["R8", "R10"]


def test_no_image_is_decoded(root, monkeypatch):
    monkeypatch.setattr(Image.Image, "load", lambda self: pytest.fail("decoded"))
    for kind in SOURCES:
        assert run(root, kind, STOP)[0]
