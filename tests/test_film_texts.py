"""Texts of films by a language model: of which sources, and that they follow no seed."""

from contextlib import nullcontext

import pytest
from chest_films import GEOMETRY, film
from chest_films import MEDIA as PICTURE
from llm_server import LlmServer, section
from pydantic import ValidationError

from medtune.cli.films import film_texts
from medtune.config.films import FilmsConfig, FilmTextsPart
from medtune.config.stages import FilmTextsStage
from medtune.dataset.film_shards import INDEX, MEDIA, table
from medtune.media.film_shard import ConvertedImage
from medtune.runtime.tables import read_rows, write_records


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
        ConvertedImage(
            **{name: getattr(one, name) for name in ("source", "image_id", "path")},
            source_sha256="0" * 64,
            media=PICTURE,
            geometry=GEOMETRY,
        )
        for one in films
    ]
    write_records(table(results, INDEX, "0000"), films)
    write_records(table(results, MEDIA, "0000"), media)


def test_every_experiment_asks_the_same(tmp_path, monkeypatch):
    monkeypatch.setattr("medtune.cli.films.with_manifest", lambda *_: nullcontext())
    tables = {}
    with LlmServer() as server:
        source = {"name": "m", "kind": "mimic_cxr", "root": "/x", "reports": "/y"}
        texts = {"llm": section(server.url), "conversations": {"m": 0.5}}
        films = FilmTextsPart(sources=[source], texts=texts)
        for name in "ab":
            results = tmp_path / name
            write_shard(results, 12)
            stage = FilmTextsStage(films=films).model_dump_json()
            film_texts(stage, results, "0000", results / "cache")
            paths = [table(results, f"texts/{step}", "0000") for step in ("filter", "talk")]
            tables[name] = [path.read_bytes() for path in paths]
    assert [len(read_rows(path)) for path in paths] == [12, 9]  # by the hash of their ids
    assert set(server.asked.values()) == {2}  # both asked the same, each of its own cache
    assert tables["a"] == tables["b"]
