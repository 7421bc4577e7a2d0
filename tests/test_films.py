"""Films on their way to a data set: splits, and what may not be mixed or sent."""

from collections import Counter

import pytest
from conftest import REPOSITORY
from pydantic import ValidationError

from medtune.config.chest_sources import FusionConfig
from medtune.config.experiment import Config, load
from medtune.config.films import FilmsConfig, FilmSplitsPart, FilmTextsPart
from medtune.config.tracking import TrackingConfig
from medtune.dataset import film_samples as samples
from medtune.dataset.film_account import Account
from medtune.dataset.film_shards import INDEX, MEDIA, UNUSABLE, number_in_source, read_stored, table
from medtune.dataset.film_splits import settle_splits, shared_images
from medtune.media.film_shard import ConvertedImage
from medtune.orchestration import preflight
from medtune.orchestration.preflight import check_tracking
from medtune.planning.sizes import training_sizes
from medtune.records.film import Film
from medtune.runtime.errors import ConfigError, DataError
from medtune.runtime.files import write_json
from medtune.runtime.tables import read_records, write_records
from medtune.sources.chest.splits import read_splits
from medtune.tasks.chest.published_mix import default_weights
from medtune.texts.items import NamedBox

PUBLISHED = load(REPOSITORY / "config/chest_xray.yaml")


def stored(results, shard: str, rows: list[tuple[str, str, str | None, str]]) -> None:
    """Write the tables of a shard: (image, patient, published split, hash of the file)."""
    films, images = [], []
    for image, patient, split, digest in rows:
        common = {"source": shard, "image_id": image, "path": f"{image}.png"}
        films.append(Film(**common, study_id=image, patient_id=patient, split=split))
        images.append(ConvertedImage(**common, source_sha256=digest * 64))
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


def test_a_split_without_patients_is_told(tmp_path, capsys):
    stored(tmp_path, "0000", [(name, f"x/{name}", "train", name) for name in "ab"])
    settle_splits(FilmSplitsPart(), 1, tmp_path, tmp_path / "splits.parquet")
    told = " ".join(capsys.readouterr().err.split())
    assert "train: 2 patients" in told
    assert "warning: no patient is in `val`: raise `films.splits.val`" in told
    assert "warning: no patient is in `test`: name a source that only tests" in told


def test_a_patient_with_several_splits_in_one_source_is_told(tmp_path, capsys):
    rows = [("a", "x/1", "train", "0"), ("b", "x/1", "test", "1"), ("c", "x/2", "train", "2")]
    stored(tmp_path, "0000", rows)
    settle_splits(FilmSplitsPart(), 1, tmp_path, tmp_path / "splits.parquet")
    told = " ".join(capsys.readouterr().err.split())
    assert "warning: 0000: 1 patients have films in several splits" in told
    assert read_splits(tmp_path / "splits.parquet") == {"x/1": "test", "x/2": "train"}


def test_tables_of_other_films_are_refused(tmp_path):
    stored(tmp_path, "0000", [("a", "x/1", "train", "0"), ("b", "x/2", "train", "1")])
    images, left_out = table(tmp_path, MEDIA, "0000"), Counter()
    assert list(read_stored(tmp_path, "0000", left_out)) == []
    assert left_out == {("0000", "", "film", UNUSABLE): 2}
    write_records(images, read_records(images, ConvertedImage)[::-1])
    with pytest.raises(DataError, match="not about the films of the index"):
        list(read_stored(tmp_path, "0000"))


def test_a_shard_is_numbered_within_its_source(tmp_path):
    for shard, source in (("0000", "x"), ("0001", "y"), ("0002", "y"), ("0003", "z")):
        stored(tmp_path, source, [(f"{source}{shard}", "p", "train", "0")])
        table(tmp_path, INDEX, source).rename(table(tmp_path, INDEX, shard))
    numbers = [number_in_source(tmp_path, f"{shard:04d}") for shard in range(4)]
    assert numbers == [0, 0, 1, 0]


def test_a_thin_box_is_told_with_a_pixel_of_width():
    assert NamedBox(name="a", box=(10.6, 20.0, 11.4, 99.9)).text == "<box>10, 20, 11, 100</box>"


def test_what_an_earlier_configuration_wrote_does_not_count(tmp_path, monkeypatch):
    config = FilmTextsPart(sources=[{"name": "m", "kind": "vindr_cxr", "root": "/x"}])
    monkeypatch.setattr(samples, "read_texts", lambda *_: pytest.fail("read"))
    monkeypatch.setattr(samples, "read_stored", lambda *_: iter(()))
    assert list(samples.film_samples(tmp_path, "0000", config, 1, {}, Account())) == []


def test_a_restricted_source_is_not_tracked_online():
    with pytest.raises(ConfigError, match=r"restricted sources \['mimic'\]"):
        check_tracking(TrackingConfig(report_to="wandb_online"), ["mimic"])


def test_restricted_films_are_gathered_from_a_configuration(monkeypatch):
    for name in ("check_folders", "check_base", "check_packages"):
        monkeypatch.setattr(preflight, name, lambda *_: None)
    tracked = PUBLISHED.model_copy(update={"tracking": TrackingConfig(report_to="wandb_online")})
    with pytest.raises(ConfigError, match=r"restricted sources \['mimic'"):
        preflight.check_experiment(tracked)


def test_the_published_sources_follow_one_policy_and_every_reader_counts():
    films = PUBLISHED.films
    assert all(source.restricted for source in films.sources)
    for fusion in (films.fusion, FusionConfig()):
        assert (fusion.min_readers, fusion.iou) == (1, 0.1)  # as published
    changed = films.model_dump()
    changed["sources"][0]["labels"]["uncertain"] = "zeros"
    with pytest.raises(ValidationError, match="need one policy"):
        FilmsConfig(**changed)


def test_the_published_mix_is_the_published_repetition():
    kinds = {source.name: source.kind for source in PUBLISHED.films.sources}
    assert PUBLISHED.sft.dataset_weights == pytest.approx(default_weights(kinds), rel=1e-6)


@pytest.mark.parametrize("name", ["phantom", "verification", "splits", "media"])
def test_sections_of_volumes_are_refused_beside_films(name):
    changed = {"phantom": {"root": "data/x"}, "verification": {"on_error": "exclude"}}
    changed |= {"splits": {"val": 0.3}, "media": {"fps": 3.0}}
    with pytest.raises(ValidationError, match=f"`{name}` is for volumes"):
        Config(**(PUBLISHED.model_dump() | {name: changed[name]}))


def test_who_wrote_the_texts_may_not_judge_them():
    told = PUBLISHED.model_dump()
    told["evaluation"]["judge"] = told["films"]["texts"]["llm"]
    with pytest.raises(ValidationError, match="favor its own words"):
        Config(**told)


def test_a_plan_of_films_needs_their_data_set(tmp_path):
    with pytest.raises(DataError, match="run `snakemake prepare` first"):
        training_sizes(PUBLISHED, None, tmp_path / "datasets")


def test_sources_that_are_named_must_be_there():
    source = {"name": "m", "kind": "vindr_cxr", "root": "/x"}
    with pytest.raises(ValidationError, match=r"splits.test`: names \['mimic'\]"):
        FilmsConfig(sources=[source], splits={"test": ["mimic"]})
    with pytest.raises(ValidationError, match=r"splits.inherit_split_from`: names \['vindr_cxr'\]"):
        FilmsConfig(sources=[source], splits={"inherit_split_from": ["vindr_cxr"]})
