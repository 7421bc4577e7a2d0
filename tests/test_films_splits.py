"""Splits of films as a stage: patients who share an image are one."""

from medtune.files import write_json
from medtune.films.shards import INDEX, MEDIA, table
from medtune.films.splits import settle_splits, shared_images
from medtune.media.film_shard import StoredFilm
from medtune.sections.films import FilmSplitsPart
from medtune.sources.chest.film import Film
from medtune.sources.chest.splits import read_splits
from medtune.tables import write_records


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
