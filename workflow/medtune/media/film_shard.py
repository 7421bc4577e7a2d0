"""Conversion of one shard of films, the work of one job.

What was done is kept in a journal: after a crash, or when the index changed, only films are
converted that it does not know.
"""

import multiprocessing
import os
import signal
import threading
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from functools import partial
from pathlib import Path

from pydantic import BaseModel

from medtune.config.chest_images import FilmImagesConfig
from medtune.geometry.image import ImageGeometry
from medtune.media.film import store_film
from medtune.media.journal import Journal
from medtune.records.film import Film
from medtune.records.sample import Media
from medtune.runtime.console import log, track
from medtune.runtime.errors import DataError
from medtune.runtime.files import canonical_json, sha256, sha256_text
from medtune.runtime.tables import write_records

MIN_COUNT = 10  # films that are no sign that something is wrong with all
# What does not change the image of a film.
NOT_OF_A_FILM = {"on_error", "max_excluded_fraction"}


class ConvertedImage(BaseModel):
    """What became of one film.

    Attributes:
        source: Name of the source.
        image_id: The film's name in it.
        path: The source's file, relative to the source's folder.
        source_sha256: Of that file; None if there is none.
        media: The stored image, its path relative to the folder of the shard's table; None if the
            film cannot be used.
        geometry: From the source's pixels to those of the stored image.
        error: Why the film cannot be used.
    """

    source: str
    image_id: str
    path: str
    source_sha256: str | None
    media: Media | None = None
    geometry: ImageGeometry | None = None
    error: str | None = None


def identical_films(records: Iterable[ConvertedImage]) -> list[tuple[str, ...]]:
    """Return the groups of films whose source files hold the same bytes, each sorted."""
    owners: dict[str, set[str]] = defaultdict(set)
    for record in records:
        if record.source_sha256:
            owners[record.source_sha256].add(f"{record.source}/{record.image_id}")
    return sorted(tuple(sorted(names)) for names in owners.values() if len(names) > 1)


def convert_films(
    config: FilmImagesConfig,
    films: Sequence[Film],
    root: Path,
    output: Path,
    journal: Path,
    *,
    code: str,
    processes: int | None = None,
) -> None:
    """Write the stored images of films of one source, then `output`, the table of `ConvertedImage`.

    Images go to `<folder of output>/<source>/<image_id>.png`. The table has one row per film, in
    the films' order, with the films that cannot be used; there is none before all are done.

    Args:
        config: How images are stored.
        films: The shard.
        root: The source's folder of images.
        output: The table to write.
        journal: File of what earlier runs have done.
        code: Hash of the code; what other code has done is done again.
        processes: How many work at a time; None: as many as there are cores for this process.

    Raises:
        DataError: Two films have one id, a process was killed, or films cannot be used and
            `on_error` is `stop` or they are too many; each of them is printed, and what was done
            is kept.
    """
    twice = [name for name, count in Counter(film.image_id for film in films).items() if count > 1]
    if twice:
        raise DataError(twice[0], "is the id of several films", "correct the source's tables")
    known = Journal(journal, ConvertedImage)
    settings = config.model_dump(mode="json", exclude=NOT_OF_A_FILM)
    keys = [
        sha256_text(canonical_json({"film": _identity(film), "settings": settings, "code": code}))
        for film in films
    ]
    convert = partial(_convert, root=root, folder=output.parent, config=config)
    records = _converted(films, keys, known, convert, processes)
    for record in records:
        if record.error:
            log(f"{root / record.path}: {record.error}")
    for names in identical_films(records):
        log(f"identical files: {', '.join(names)}")
    broken = [(record.path, record.error) for record in records if record.error]
    check_exclusions(next(iter(broken), None), len(broken), len(records), config, "see above")
    write_records(output, records)
    known.keep({key: one for key, one in zip(keys, records, strict=True) if not one.error})


def _converted(
    films: Sequence[Film],
    keys: Sequence[str],
    known: Journal[ConvertedImage],
    convert: Callable[[Film, ConvertedImage | None], ConvertedImage],
    processes: int | None,
) -> list[ConvertedImage]:
    """Return what became of every film, in several processes; what is new is noted at once.

    Raises:
        DataError: A process was killed.
    """
    earlier, records = [known.done.get(key) for key in keys], list[ConvertedImage]()
    pool = ProcessPoolExecutor(
        processes or len(os.sched_getaffinity(0)),
        multiprocessing.get_context("spawn"),  # the parent may have threads
        initializer=serve,
    )
    try:
        done = pool.map(convert, films, earlier)
        for key, record in track(zip(keys, done, strict=True), "convert films", len(films)):
            if not record.error and record != known.done.get(key):
                known.add(key, record)
            records.append(record)
    except BrokenProcessPool:
        raise DataError(
            films[len(records)].path,
            "a process was killed while it converted this film or one of the next",
            "give the job more memory, then run it again: what was done is kept",
        ) from None
    finally:
        pool.shutdown(cancel_futures=True)
    return records


def _identity(film: Film) -> dict[str, object]:
    return film.model_dump(include={"source", "image_id", "path", "width", "height"})


def check_exclusions(
    first: tuple[str, str] | None, count: int, total: int, config: FilmImagesConfig, listed: str
) -> None:
    """Stop at films that cannot be used, or at too many of them.

    Args:
        first: One of them, and why; None: there is none.
        count: How many there are.
        total: Among how many.
        config: What then happens.
        listed: Where they are listed.

    Raises:
        DataError: `on_error` is `stop`, or they are too many.
    """
    many = count > config.max_excluded_fraction * total and (count > MIN_COUNT or count == total)
    if first and (config.on_error == "stop" or many):
        raise DataError(
            first[0],
            f"{first[1]}; {count} of {total} films cannot be used, {listed}",
            "repair the files, or raise `images.max_excluded_fraction`"
            if many and config.on_error == "exclude"
            else "repair the files, or set `images.on_error: exclude` to go on without such films",
        )


def serve() -> None:
    """Prepare a worker: the parent decides when to end, and no worker outlives it."""
    for number in (signal.SIGINT, signal.SIGUSR1):
        signal.signal(number, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)


def _convert(
    film: Film,
    earlier: ConvertedImage | None,
    *,
    root: Path,
    folder: Path,
    config: FilmImagesConfig,
) -> ConvertedImage:
    """Return what was done earlier, if file and image are still the same, or convert the film."""
    source = root / film.path
    digest = sha256(source) if source.is_file() else None
    if earlier and earlier.media and earlier.source_sha256 == digest:
        image = folder / earlier.media.path
        if image.is_file() and sha256(image) == earlier.media.sha256:
            return earlier
    record = ConvertedImage(
        source=film.source, image_id=film.image_id, path=film.path, source_sha256=digest
    )
    try:
        media, geometry = store_film(film, root, folder, config)
    except DataError as error:
        return record.model_copy(update={"error": error.found})
    return record.model_copy(update={"media": media, "geometry": geometry})
