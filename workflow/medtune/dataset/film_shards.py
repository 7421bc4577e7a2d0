"""Where the tables of films are, and how a shard is read.

Below the folder of an experiment: `index/films/<shard>.parquet` (`Film`), `media/<shard>.parquet`
(`ConvertedImage`) beside the images, `texts/<step>/<shard>.parquet`. A shard is of one source.
"""

import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from medtune.geometry.image import ImageGeometry
from medtune.media.film import placed
from medtune.media.film_shard import ConvertedImage
from medtune.records.film import Film
from medtune.records.sample import Media
from medtune.runtime.errors import DataError
from medtune.runtime.tables import read_records, read_rows
from medtune.tasks.chest.samples import LeftOut

UNUSABLE = "its image cannot be used"
UNPLACED = "boxes on an image that is no even copy of the original, or of unknown size"
INDEX, VERIFIED, MEDIA, TEXTS = "index/films", "index/verified", "media", "texts"


def shard_names(results: Path) -> list[str]:
    """Return the names of all shards of an index: 0000, 0001, ..."""
    return sorted(path.stem for path in (results / INDEX).glob("*.parquet"))


def table(results: Path, folder: str, shard: str) -> Path:
    """Return the path of a shard's table."""
    return results / folder / f"{shard}.parquet"


def read_shard(results: Path, shard: str) -> list[Film]:
    """Return the films of a shard."""
    return read_records(table(results, INDEX, shard), Film)


def number_in_source(results: Path, shard: str) -> int:
    """Return the number of a shard among those of its source, which other sources do not change."""
    sources = [
        _source(table(results, INDEX, name)) for name in shard_names(results) if name <= shard
    ]
    return sources[:-1].count(sources[-1])


def _source(path: Path) -> str:
    return str(pq.read_table(path, columns=["source"])["source"][0])


def read_stored(
    results: Path, shard: str, dropped: Counter[LeftOut] | None = None
) -> Iterator[tuple[Film, Media, ImageGeometry]]:
    """Yield the films of a shard that have a stored image; count the others in `dropped`.

    A film whose boxes cannot be placed on its image comes without them and without a size.

    Raises:
        DataError: The tables of index and images are not about the same films.
    """
    lost = Counter[LeftOut]() if dropped is None else dropped
    films = read_shard(results, shard)
    stored = read_records(table(results, MEDIA, shard), ConvertedImage)
    if [film.image_id for film in films] != [one.image_id for one in stored]:
        raise DataError(
            table(results, MEDIA, shard), "is not about the films of the index", "run prepare again"
        )
    for film, one in zip(films, stored, strict=True):
        if one.media is None or one.geometry is None:
            lost[LeftOut(film.source, "", "film", UNUSABLE)] += 1
        elif placed(film, one.geometry):
            yield film, one.media, one.geometry
        else:
            if film.regions:
                lost[LeftOut(film.source, "", "film", UNPLACED)] += 1
            bare = {"width": None, "height": None, "regions": ()}
            yield film.model_copy(update=bare), one.media, one.geometry


def read_texts(results: Path, step: str, shard: str) -> dict[str, Any]:
    """Return what a language model wrote, by id.

    Raises:
        DataError: The step has not written the table.
    """
    rows = read_rows(table(results, f"{TEXTS}/{step}", shard))
    return {row["id"]: json.loads(row["result"]) for row in rows}
