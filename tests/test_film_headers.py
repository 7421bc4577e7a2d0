"""Every film's file is looked at before any is converted; boxes on copies are scaled or refused."""

import csv
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import yaml
from chest_data import SIZE, ChestData, write_chest_data
from chest_files import write_csv
from PIL import Image
from typer.testing import CliRunner

from medtune.cli.main import app
from medtune.config.chest_images import FilmImagesConfig
from medtune.config.chest_sources import ChestSourceConfig, ChestVerificationConfig
from medtune.config.films import FilmTextsPart
from medtune.dataset.film_account import Account
from medtune.dataset.film_samples import film_samples
from medtune.dataset.film_shards import INDEX, MEDIA, UNPLACED, VERIFIED, read_shard, table
from medtune.media.film_shard import convert_films
from medtune.records.film import Film, Region
from medtune.runtime.errors import DataError
from medtune.runtime.files import read_json, write_json
from medtune.runtime.tables import read_records, read_rows
from medtune.sources.chest.film_headers import LookedFilm, gather_looks, look_at, look_at_shard
from medtune.sources.chest.index import image_folder, write_index
from medtune.tasks.chest.samples import LeftOut

STOP = FilmImagesConfig()
EXCLUDE = FilmImagesConfig(on_error="exclude", max_excluded_fraction=0.5)


def made(path: str, **changes) -> Film:
    values = {"source": "made", "image_id": path, "study_id": "s", "patient_id": "p"}
    return Film.model_validate(values | {"split": None, "path": path} | changes)


def picture(folder: Path, name: str, size: tuple[int, int], mode: str = "L", **options) -> None:
    pixels = np.random.default_rng(0).integers(1, 200, size[::-1]).astype(np.uint8)
    (folder / name).parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).convert(mode).save(folder / name, **options)


def codes(film: Film, folder: Path) -> list[str]:
    return [finding.code for finding in look_at(film, folder).findings]


def test_what_is_odd_about_a_file_is_a_warning_with_what_was_expected(tmp_path):
    box = Region(kind="phrase", name="a", box=(1, 1, 9, 9))
    told = {"width": 2544, "height": 3056}
    picture(tmp_path, "a.png", (224, 269))
    picture(tmp_path, "square.png", (224, 224))
    picture(tmp_path, "rgba.png", (8, 8), "RGBA")
    picture(tmp_path, "jpeg.png", (8, 8), format="JPEG")
    assert codes(made("a.png"), tmp_path) == []
    assert codes(made("a.png", **told), tmp_path) == ["image-resized"]
    assert codes(made("square.png", **told), tmp_path) == ["image-misfit"]
    assert codes(made("rgba.png"), tmp_path) == ["image-alpha"]
    assert codes(made("jpeg.png"), tmp_path) == ["image-suffix"]
    looked = look_at(made("square.png", regions=(box,), **told), tmp_path)
    (finding,) = looked.findings
    assert (looked.kind, looked.width, looked.height) == ("PNG L, 8 bits", 224, 224)
    assert finding.model_dump() == {
        "code": "boxes-unplaced",
        "severity": "warning",
        "case": "made/square.png",
        "found": "square.png: 224x224 is no even copy of 2544x3056: padded or squeezed to a square,"
        " or cropped",
        "expected": "2544x3056, as the tables say",
        "remedy": "use the original or an even copy (its 1 boxes are left out)",
    }


def shard(folder: Path) -> tuple[list[Film], Path]:
    """Write twelve films, of which one is cut and one is transparent, and look at them."""
    films = [made(f"{number}.png") for number in range(12)]
    for film in films:
        picture(folder, film.path, (30, 40))
    cut = folder / films[3].path
    cut.write_bytes(cut.read_bytes()[:-30])
    Image.new("LA", (30, 40), (9, 90)).save(folder / films[5].path)
    look_at_shard(films, folder, folder / "looked.parquet")
    return films, folder / "looked.parquet"


def test_files_that_cannot_be_used_stop_before_conversion_or_are_counted(tmp_path):
    films, looked = shard(tmp_path)
    assert [record.path for record in read_records(looked, LookedFilm)] == [f.path for f in films]
    out = tmp_path / "findings.parquet", tmp_path / "images.json"
    with pytest.raises(DataError, match=r"made/3.png: 3.png: is truncated.*2 of 12 films"):
        gather_looks([looked], STOP, *out)
    rows = {row["case"]: row for row in read_rows(out[0])}  # written all the same
    assert {row["code"] for row in rows.values()} == {"image-unreadable", "image-unusable"}
    assert "transparent in places" in rows["made/5.png"]["found"]
    assert not out[1].exists()
    gather_looks([looked], EXCLUDE, *out)
    counts = read_json(out[1])["made"]
    assert counts["image files"] == 12
    assert counts["that cannot be used"] == 2
    assert counts["PNG L, 8 bits"] == 10
    few = EXCLUDE.model_copy(update={"max_excluded_fraction": 0.1})
    gather_looks([looked], few, *out)  # two are no sign that something is wrong with all
    for film in films:
        (tmp_path / film.path).write_bytes(b"")
    look_at_shard(films, tmp_path, looked)
    with pytest.raises(DataError, match="12 of 12 films cannot be used"):
        gather_looks([looked], EXCLUDE, *out)


def test_looking_twice_gives_the_same_bytes(tmp_path):
    films, looked = shard(tmp_path)
    before = looked.read_bytes()
    look_at_shard(films, tmp_path, looked)
    assert looked.read_bytes() == before


@pytest.fixture
def data(tmp_path) -> ChestData:
    return write_chest_data(tmp_path / "data", patients=6, seed=0)


def resize(folder: Path, size: tuple[int, int], suffix: str = ".jpg") -> None:
    """Replace all films of a folder by copies of another size, and perhaps another format."""
    for path in sorted(folder.rglob("*.jpg")):
        with Image.open(path) as image:
            copy = image.resize(size)
        path.unlink()
        copy.save(path.with_suffix(suffix))


def prepared(data: ChestData, kind: str, results: Path) -> tuple[Counter, Counter, list]:
    """Index and convert a source; return what was left out, warnings, and the samples."""
    given = next(source for source in data.sources if source["kind"] == kind)
    config = ChestSourceConfig(**given)
    paths = results / INDEX, results / "findings.parquet", results / "summary.json"
    write_index([config], ChestVerificationConfig(), *paths)
    write_json(results / INDEX / "manifest.json", {})
    films = read_shard(results, "0000")
    root, verified = image_folder(config), table(results, VERIFIED, "0000")
    look_at_shard(films, root, verified)
    looked = Counter(f.code for one in read_records(verified, LookedFilm) for f in one.findings)
    output = table(results, MEDIA, "0000")
    convert_films(STOP, films, root, output, results / "j.jsonl", code="1", processes=1)
    splits, account = {film.patient_id: film.split for film in films}, Account()
    part = FilmTextsPart(sources=[config])
    made = list(film_samples(results, "0000", part, 1, splits, account))
    return account.left_out, looked, made


def boxes_of(samples: list) -> dict[str, list]:
    """Return the boxes of samples by id, in shares of the picture inside the stored image."""
    found = {}
    for sample in samples:
        width, height = sample.geometry["size"]
        sides = np.array([width, height, width, height])
        found[sample.id] = np.array(sample.truth["boxes"]) / sides
    return found


def test_boxes_follow_even_copies_and_are_refused_on_others(data, tmp_path):
    dropped, looked, whole = prepared(data, "ms_cxr", tmp_path / "whole")
    assert not looked
    expected = boxes_of(whole)
    resize(data.root / "mimic_jpg", (SIZE[0] // 2, SIZE[1] // 2), ".png")
    dropped, looked, half = prepared(data, "ms_cxr", tmp_path / "half")
    assert set(looked) == {"image-resized"}
    found = boxes_of(half)
    assert expected.keys() == found.keys()
    assert len(found) > 5
    for name, boxes in expected.items():
        assert found[name] == pytest.approx(boxes, abs=1e-4)
    assert not {reason for *_, reason in dropped if "image" in reason}
    resize(data.root / "mimic_jpg", (60, 60))
    for path in (data.root / "mimic_jpg").rglob("*.png"):
        with Image.open(path) as image:
            square = image.resize((60, 60))
        square.save(path)
    dropped, looked, refused = prepared(data, "ms_cxr", tmp_path / "square")
    assert set(looked) == {"boxes-unplaced"}
    assert not refused
    assert (
        dropped[LeftOut("ms_cxr", "", "film", UNPLACED)]
        == looked["boxes-unplaced"]
        == len({s.case_id for s in whole})
    )
    reports = prepared(data, "mimic_cxr", tmp_path / "reports")[2]
    assert {s.task for s in reports} == {"report_generation", "abnormality_classification"}


@pytest.mark.parametrize("sizes", [True, False], ids=["meta", "nothing"])
def test_copies_of_vindr_need_the_sizes_of_the_originals(data, tmp_path, sizes):
    """Without them an abnormal film would pass for one without findings, or a box be misplaced."""
    expected = prepared(data, "vindr_cxr", tmp_path / "whole")[2]
    width, height = SIZE
    for path in sorted((data.root / "vindr").rglob("*.dicom")):
        picture(path.parent, f"{path.stem}.png", (width // 2, height // 2))
        path.unlink()
    if sizes:
        rows = [{"image_id": f"{i:032x}", "dim0": height, "dim1": width} for i in range(6)]
        for split in ("train", "test"):
            own = [
                row for row in rows if (data.root / f"vindr/{split}/{row['image_id']}.png").exists()
            ]
            write_csv(data.root / f"vindr/{split}_meta.csv", own)
    _, looked, found = prepared(data, "vindr_cxr", tmp_path / "copies")
    assert {sample.id for sample in found} == ({s.id for s in expected} if sizes else set())
    assert looked == ({"image-resized": 6} if sizes else {})
    grounding = [s for s in found if "boxes" in s.truth]
    before = boxes_of([s for s in expected if "boxes" in s.truth])
    for name, boxes in boxes_of(grounding).items():
        assert boxes == pytest.approx(before[name], abs=1e-4)


def test_padded_copies_of_padchest_are_told_by_the_size_in_its_table(data, tmp_path):
    table_of = next((data.root / "padchest").glob("PADCHEST*"))
    with table_of.open(newline="") as file:
        rows = [
            row | {"Columns_DICOM": SIZE[0], "Rows_DICOM": SIZE[1]} for row in csv.DictReader(file)
        ]
    write_csv(table_of, rows)
    whole = prepared(data, "padchest_gr", tmp_path / "whole")[2]
    assert whole
    for path in (data.root / "padchest/images_grounding").glob("*.png"):
        picture(path.parent, path.name, (64, 64))
    _, looked, found = prepared(data, "padchest_gr", tmp_path / "square")
    assert not found
    assert looked["boxes-unplaced"] == len({sample.case_id for sample in whole})


def test_verify_looks_at_all_files_and_lists_what_no_row_names(data, tmp_path):
    config = {"experiment": "x", "task": {"name": "chest_xray"}, "films": {"sources": data.sources}}
    config["model"] = {"family": "qwen3_vl", "builder": "tiny"}
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(config))
    picture(data.root, "mimic_jpg/files/new.jpg", (8, 8))
    arguments = ["verify", "--config", str(tmp_path / "config.yaml")]
    run = CliRunner().invoke(app, [*arguments, "--output", str(tmp_path / "out")])
    assert run.exit_code == 0, run.output
    assert read_json(tmp_path / "out/images.json")["vindr_cxr"]["image files"] == 6
    rows = [row for row in read_rows(tmp_path / "out/findings.parquet") if "unnamed" in row["code"]]
    assert [(row["case"], row["found"]) for row in rows] == [
        ("mimic_cxr", "1 image files that no sound row names, such as files/new.jpg")
    ]
    film = next((data.root / "chexpert").rglob("view1_frontal.jpg"))
    film.write_bytes(film.read_bytes()[:-20])
    run = CliRunner().invoke(app, [*arguments, "--output", str(tmp_path / "out")])
    assert isinstance(run.exception, DataError)
    assert "is truncated" in str(run.exception)
