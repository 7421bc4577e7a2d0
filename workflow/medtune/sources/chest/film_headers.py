"""The look at the header of every film's file, before any is converted: a shard is one job."""

import multiprocessing
import os
from collections import Counter
from collections.abc import Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Literal

from pydantic import BaseModel

from medtune.config.chest_images import FilmImagesConfig
from medtune.geometry.image import copy_fault, is_copy
from medtune.media.film import read_film
from medtune.media.film_shard import check_exclusions, serve
from medtune.media.image_header import ALPHA, ImageHeader, check_header, image_header
from medtune.records.film import Film
from medtune.records.issue import Issue
from medtune.runtime.console import log
from medtune.runtime.errors import DataError
from medtune.runtime.files import write_json
from medtune.runtime.tables import read_records, write_records
from medtune.sources.chest.issues import Issues

SUFFIXES = {
    **{".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG"},
    **dict.fromkeys((".dcm", ".dicom", ".dic"), "DICOM"),
}
UNREADABLE, UNUSABLE = "that cannot be read", "that cannot be used"


class LookedFilm(BaseModel):
    """What the header of a film's file says, and what is wrong or odd about it.

    Attributes:
        source: Name of the source.
        path: The file, relative to the source's folder of images.
        kind: Format, mode, bits of a value and transfer syntax; empty if it cannot be read.
        width: Of the file's image in pixels; 0 if it cannot be read.
        height: The same.
        findings: Errors (it cannot be used) and warnings.
    """

    source: str
    path: str
    kind: str = ""
    width: int = 0
    height: int = 0
    findings: list[Issue] = []


def look_at(film: Film, root: Path) -> LookedFilm:
    """Return what the header of a film's file says; see `image_header`.

    Errors: image-unreadable, image-unusable. Warnings: image-suffix, image-alpha, image-resized,
    image-misfit (no even copy of what the tables say, of a film without boxes), boxes-unplaced
    (the same, of one with boxes).

    Args:
        film: The film.
        root: The source's folder of images.
    """
    looked, path = LookedFilm(source=film.source, path=film.path), root / film.path
    try:
        header = image_header(path)
    except DataError as error:
        return _refused(looked, film, "image-unreadable", error)
    looked.kind = f"{header.format} {header.mode}, {header.bits} bits"
    looked.kind += f", {header.syntax}" if header.syntax else ""
    looked.width, looked.height = header.size
    try:
        check_header(path, header)
        if header.mode in ALPHA:
            read_film(path)  # few are, and only their pixels tell whether they are transparent
    except DataError as error:
        return _refused(looked, film, "image-unusable", error)
    looked.findings = [*_odd(film, header), *_size(film, header)]
    return looked


def _refused(looked: LookedFilm, film: Film, code: str, error: DataError) -> LookedFilm:
    found, expected = f"{film.path}: {error.found}", "a whole DICOM, PNG or JPEG file of one film"
    looked.findings = [_finding("error", code, film, found, expected, error.remedy)]
    return looked


def _odd(film: Film, header: ImageHeader) -> Iterable[Issue]:
    named = SUFFIXES.get(Path(film.path).suffix.lower(), header.format)
    if named != header.format:
        found, remedy = f"{film.path}: {header.format} inside", "nothing (it is read as that)"
        yield _finding("warning", "image-suffix", film, found, named, remedy)
    if header.mode in ALPHA:
        found, remedy = f"{film.path}: mode {header.mode}, opaque", "nothing (alpha is ignored)"
        yield _finding("warning", "image-alpha", film, found, "gray, or RGB", remedy)


def _size(film: Film, header: ImageHeader) -> Iterable[Issue]:
    """Yield what boxes must know of a file that has not the size of the original."""
    if film.size is None or film.size == header.size:
        return
    expected = f"{film.width}x{film.height}, as the tables say"
    fault, count = copy_fault(header.size, film.size), len(film.regions)
    if is_copy(header.size, film.size):
        code, found = "image-resized", f"{film.path}: {header.width}x{header.height}"
        remedy = f"nothing ({f'its {count} boxes are scaled' if count else 'it has no boxes'})"
    elif not count:
        code, found, remedy = "image-misfit", f"{film.path}: {fault}", "is it the right image?"
    else:
        code, found = "boxes-unplaced", f"{film.path}: {fault}"
        remedy = f"use the original or an even copy (its {count} boxes are left out)"
    yield _finding("warning", code, film, found, expected, remedy)


def _finding(
    severity: Literal["error", "warning"],
    code: str,
    film: Film,
    found: str,
    expected: str,
    remedy: str,
) -> Issue:
    case = f"{film.source}/{film.image_id}"
    return Issue(
        code=code, severity=severity, case=case, found=found, expected=expected, remedy=remedy
    )


def look_at_shard(films: Sequence[Film], root: Path, output: Path) -> None:
    """Write the table of `LookedFilm` of a shard, one row per film, in their order."""
    write_records(output, [look_at(film, root) for film in films])


def look_at_shards(shards: Sequence[tuple[Path, Path, Path]]) -> None:
    """Look at several shards, in as many processes as there are cores for this one.

    Args:
        shards: Of each its table of films, its source's folder of images, and the table to write.
    """
    workers = min(len(shards), len(os.sched_getaffinity(0)))
    if workers == 1:
        for shard in shards:
            _look_at_table(shard)
        return
    spawn = multiprocessing.get_context("spawn")  # the parent may have threads
    with ProcessPoolExecutor(workers, spawn, initializer=serve) as pool:
        for _ in pool.map(_look_at_table, shards):
            pass


def _look_at_table(shard: tuple[Path, Path, Path]) -> None:
    films, root, output = shard
    look_at_shard(read_records(films, Film), root, output)


def gather_looks(
    shards: Iterable[Path], config: FilmImagesConfig, findings: Path, summary: Path
) -> None:
    """Join what was seen in all shards: findings, counts, and whether to go on.

    Args:
        shards: The tables of `LookedFilm`; one is in memory at a time.
        config: What happens with files that cannot be used.
        findings: Gets the table of findings; written whether errors stop or not.
        summary: Gets kinds, sizes and findings by source, as JSON.

    Raises:
        DataError: Files of a source cannot be used and `images.on_error` is `stop`, or they are
            too many.
    """
    seen: dict[str, Counter[str]] = {}
    broken: dict[str, tuple[str, str]] = {}
    with Issues(findings) as table:
        for record in (one for shard in shards for one in read_records(shard, LookedFilm)):
            counts = seen.setdefault(record.source, Counter())
            counts["image files"] += 1
            counts[record.kind or UNREADABLE] += 1
            for finding in record.findings:
                counts[f"{finding.severity} {finding.code}"] += 1
                add = table.report if finding.severity == "error" else table.warn
                add(**finding.model_dump(exclude={"severity"}))
                if finding.severity == "error":
                    counts[UNUSABLE] += 1
                    broken.setdefault(record.source, (finding.case, finding.found))
    for source, counts in seen.items():
        for what, count in counts.items():
            log(f"{source}: {count} {what}")
    for source, counts in seen.items():
        place = f"listed in {findings}"
        check_exclusions(broken.get(source), counts[UNUSABLE], counts["image files"], config, place)
    write_json(summary, seen)
