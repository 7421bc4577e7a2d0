"""Films on their way to a data set: splits, and what may not be mixed or sent."""

from collections import Counter
from contextlib import nullcontext

import pytest
from chest_films import GEOMETRY, film
from chest_films import MEDIA as PICTURE
from llm_server import LlmServer, section
from pydantic import ValidationError

from medtune.cli_films import film_texts
from medtune.errors import ConfigError
from medtune.files import write_json
from medtune.films import samples
from medtune.films.shards import INDEX, MEDIA, table
from medtune.films.splits import settle_splits, shared_images
from medtune.llm.items import NamedBox
from medtune.media.film_shard import StoredFilm
from medtune.preflight import check_tracking
from medtune.sections.films import FilmsConfig, FilmSplitsPart, FilmTextsPart
from medtune.sections.tracking import TrackingConfig
from medtune.sources.chest.film import Film
from medtune.sources.chest.splits import read_splits
from medtune.stages import FilmTextsStage
from medtune.tables import read_rows, write_records


def stored(results, shard: str, rows: list[tuple[str, str, str | None, str]]) -> None:
    """Write the tables of a shard: (image, patient, published split, hash of the file)."""
    films, images = [], []
    for image, patient, split, digest in rows:
        common = {"source": shard, "image_id": image, "path": f"{image}.png"}
        films.append(Film(**common, study_id=image, patient_id=patient, split=split))
        images.append(StoredFilm(**common, source_sha256=digest * 64))
    write_records(table(results, INDEX, shard), films)
    write_records(table(results, MEDIA, shard), images)


def test_patients_who_share_an_image_get_one_split(tmp_path):
    stored(tmp_path, "0000", [("a", "x/1", "test", "0"), ("b", "x/2", "train", "1")])
    stored(tmp_path, "0001", [("c", "y/1", "train", "0"), ("d", "y/2", "train", "2")])
    write_json(tmp_path / INDEX / "manifest.json", {})
    assert shared_images(tmp_path) == [{"x/1", "y/1"}]
    settle_splits(FilmSplitsPart(), 1, tmp_path, tmp_path / "splits.parquet")
    splits = read_splits(tmp_path / "splits.parquet")
    assert splits == {"x/1": "test", "y/1": "test", "x/2": "train", "y/2": "train"}


def test_a_thin_box_is_told_with_a_pixel_of_width():
    assert NamedBox(name="a", box=(10.6, 20.0, 11.4, 99.9)).text == "<box>10, 20, 11, 100</box>"


def test_what_an_earlier_configuration_wrote_does_not_count(tmp_path, monkeypatch):
    config = FilmTextsPart(sources=[{"name": "m", "kind": "vindr_cxr", "root": "/x"}])
    monkeypatch.setattr(samples, "read_texts", lambda *_: pytest.fail("read"))
    monkeypatch.setattr(samples, "read_stored", lambda *_: iter(()))
    assert list(samples.film_samples(tmp_path, "0000", config, 1, {}, Counter())) == []


def test_a_restricted_source_is_not_tracked_online():
    with pytest.raises(ConfigError, match=r"restricted sources \['mimic'\]"):
        check_tracking(TrackingConfig(to="wandb_online"), ["mimic"])


def test_sources_that_are_named_must_be_there():
    source = {"name": "m", "kind": "vindr_cxr", "root": "/x"}
    with pytest.raises(ValidationError, match=r"splits.follow names \['vindr_cxr'\]"):
        FilmsConfig(sources=[source], splits={"follow": ["vindr_cxr"]})


def test_conversations_are_wanted_of_sources_that_give_some():
    sources = [
        {"name": "m", "kind": "mimic_cxr", "root": "/x"},
        {"name": "v", "kind": "vindr_cxr", "root": "/x"},
    ]
    texts = {"llm": section("http://localhost/v1")}
    FilmsConfig(sources=sources, texts=texts | {"conversations": {"m": 0.5}})
    with pytest.raises(ValidationError, match=r"names 'v', but .* of a vindr_cxr: take it away"):
        FilmsConfig(sources=sources, texts=texts | {"conversations": {"v": 0.5}})


def write_shard(results, count: int) -> None:
    """Write the tables of a shard of films with reports."""
    films = [
        film(number, source="m", report={"findings": f"Picture of chest {number}."})
        for number in range(count)
    ]
    media = [
        StoredFilm(
            **{name: getattr(one, name) for name in ("source", "image_id", "path")},
            source_sha256="0" * 64,
            media=PICTURE,
            geometry=GEOMETRY,
        )
        for one in films
    ]
    write_records(table(results, INDEX, "0000"), films)
    write_records(table(results, MEDIA, "0000"), media)


def test_texts_are_the_same_whatever_the_seed(tmp_path, monkeypatch):
    monkeypatch.setattr("medtune.cli_films.recorded", lambda *_: nullcontext())
    tables = {}
    with LlmServer() as server:
        source = {"name": "m", "kind": "mimic_cxr", "root": "/x", "reports": "/y"}
        texts = {"llm": section(server.url), "conversations": {"m": 0.5}}
        films = FilmTextsPart(sources=[source], texts=texts)
        for seed in (1, 2):
            results = tmp_path / str(seed)
            write_shard(results, 12)
            stage = FilmTextsStage(seed=seed, films=films).model_dump_json()
            film_texts(stage, results, "0000", results / "cache")
            paths = [table(results, f"texts/{step}", "0000") for step in ("filter", "talk")]
            tables[seed] = [path.read_bytes() for path in paths]
    assert [len(read_rows(path)) for path in paths] == [12, 9]  # by the hash of their ids
    assert set(server.asked.values()) == {2}  # both asked the same, each of its own cache
    assert tables[1] == tables[2]
