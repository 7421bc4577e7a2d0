"""The index of all chest films: sources are read, joined, checked and written in shards."""

import sqlite3
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from medtune.config.chest_sources import ChestSourceConfig, ChestVerificationConfig
from medtune.records.film import Film
from medtune.runtime.console import log
from medtune.runtime.errors import DataError
from medtune.runtime.files import atomic_folder, canonical_json, write_json
from medtune.runtime.tables import read_records
from medtune.sources.chest import (
    chexpert,
    chexpert_plus,
    imagenome,
    mimic_cxr,
    ms_cxr,
    nih_cxr14,
    open_i,
    padchest,
    padchest_gr,
    rsna_pneumonia,
    siim_pneumothorax,
    user_films,
    vindr_cxr,
)
from medtune.sources.chest.cohorts import check_cohorts, is_unlinked
from medtune.sources.chest.images import Named
from medtune.sources.chest.issues import Issues
from medtune.sources.chest.reports import ReportCheck
from medtune.sources.chest.verify import check_film

LOADERS = {
    "mimic_cxr": mimic_cxr.films,
    "chexpert": chexpert.films,
    "chexpert_plus": chexpert_plus.films,
    "chest_imagenome": imagenome.films,
    "vindr_cxr": vindr_cxr.films,
    "ms_cxr": ms_cxr.films,
    "padchest_gr": padchest_gr.films,
    "open_i": open_i.films,
    "nih_cxr14": nih_cxr14.films,
    "rsna_pneumonia": rsna_pneumonia.films,
    "siim_pneumothorax": siim_pneumothorax.films,
    "padchest": padchest.films,
    "table": user_films.films,
}
NESTED = ("labels", "report", "regions", "groups")
TYPES = {"width": pa.int32(), "height": pa.int32(), "no_finding": pa.bool_(), "listed": pa.bool_()}
SCHEMA = pa.schema([(name, TYPES.get(name, pa.string())) for name in Film.model_fields])


def image_folder(config: ChestSourceConfig) -> Path:
    """Return the folder that `Film.path` of a source is relative to."""
    return Path(config.parent or config.root)


def check_folders(config: ChestSourceConfig) -> None:
    """Check that the folders of a source exist.

    Raises:
        DataError: One does not.
    """
    folders = [config.root, config.parent, config.filtered_reports, config.conversations]
    is_table = config.reports is not None and Path(config.reports).is_file()
    for folder in (*folders, None if is_table else config.reports):
        if folder is not None and not Path(folder).is_dir():
            raise DataError(
                folder,
                f"a folder of source `{config.name}` does not exist",
                "put the data there, or correct the configuration",
            )


def source_films(
    config: ChestSourceConfig, verification: ChestVerificationConfig, findings: Issues
) -> Iterator[Film]:
    """Yield the sound films of a source, one at a time; see its module and `check_film`.

    Error of a film: id-duplicate. For warnings about reports see `ReportCheck`.

    Raises:
        DataError: The source has no folder, or a table or column is missing.
    """
    check_folders(config)
    images, reports = image_folder(config), ReportCheck(config.name, findings)
    seen = sqlite3.connect("")  # on disk: there are many ids
    seen.execute("CREATE TABLE ids (id TEXT PRIMARY KEY, path TEXT)")
    named = Named(config.name)
    for film in LOADERS[config.kind](config, findings):
        checked = check_film(film, images, verification, findings)
        named.add((checked or film).path)
        if checked is None:
            continue
        row = [film.image_id, film.path]
        if not seen.execute("INSERT OR IGNORE INTO ids VALUES (?, ?)", row).rowcount:
            case = f"{film.source}/{film.image_id}"
            first = seen.execute("SELECT path FROM ids WHERE id = ?", row[:1]).fetchone()[0]
            remedy = "take one out; of files whose names differ in the suffix alone, rename one"
            report = f"{film.path}, and {first} before it"
            findings.report("id-duplicate", case, report, "an id once", remedy)
            continue
        yield reports.checked(checked)
    reports.conclude()
    named.tell(images, findings, whole=images == Path(config.root))


def write_films(films: Iterable[Film], folder: Path, shard_size: int, first: int = 0) -> list[Path]:
    """Write films as `0000.parquet`, `0001.parquet`, ...; one shard is in memory at a time.

    Films of a study that follow each other share a shard: a job asks about a report once.

    Args:
        films: The films.
        folder: Gets the shards.
        shard_size: Films in a shard, or a few more.
        first: Number of the first shard.
    """
    paths: list[Path] = []
    for shard in _shards(films, shard_size):
        if first + len(paths) > 9999:
            raise DataError(folder, "more than 10,000 shards", "raise `verification.shard_size`")
        paths.append(folder / f"{first + len(paths):04d}.parquet")
        pq.write_table(pa.Table.from_pylist([_row(film) for film in shard], SCHEMA), paths[-1])
    return paths


def _shards(films: Iterable[Film], size: int) -> Iterator[list[Film]]:
    shard: list[Film] = []
    for film in films:
        if len(shard) >= size and film.study_id != shard[-1].study_id:
            yield shard
            shard = []
        shard.append(film)
    if shard:
        yield shard


def _row(film: Film) -> dict[str, object]:
    values = film.model_dump(mode="json")
    return values | {name: canonical_json(values[name]) for name in NESTED}


def read_films(folder: Path) -> Iterator[Film]:
    """Yield the films of an index, one shard in memory at a time.

    Raises:
        DataError: The folder holds no index, or a shard is damaged.
    """
    paths = sorted(folder.glob("*.parquet"))
    if not paths:
        raise DataError(folder, "holds no index of films", "run the stage that writes it")
    for path in paths:
        yield from read_records(path, Film)


def write_index(
    configs: Sequence[ChestSourceConfig],
    verification: ChestVerificationConfig,
    folder: Path,
    findings: Path,
    summary: Path,
) -> None:
    """Read all sources and write the shards of films, the findings and their summary.

    Args:
        configs: The sources; names are unique.
        verification: What is accepted, and whether errors stop.
        folder: Gets the shards.
        findings: Gets the table of findings; written whether errors stop or not.
        summary: Gets the counts of films and findings, as JSON.

    Raises:
        DataError: There are errors and `on_error` is `stop`, a source has too many or no sound
            film, two may show the same films (see `check_cohorts`), or see `source_films`.
    """
    counts: Counter[str] = Counter()
    published: dict[str, Counter[str]] = {config.name: Counter() for config in configs}
    unlinked: Counter[str] = Counter()
    errors: dict[str, int] = {}
    kinds = {config.name: config.kind for config in configs}

    def counted(films: Iterable[Film]) -> Iterator[Film]:
        for film in films:
            counts[film.source] += 1
            published[film.source][film.split or "none"] += 1
            unlinked[film.source] += is_unlinked(film, kinds)
            yield film

    with atomic_folder(folder) as temporary:
        shards = 0
        with Issues(findings) as found:
            for config in configs:  # a shard holds films of one source
                films, before = counted(source_films(config, verification, found)), len(found.wrong)
                shards += len(write_films(films, temporary, verification.shard_size, shards))
                errors[config.name] = len(found.wrong) - before
            _check_splits(published, found)
        _say_films(configs, published, found)
        empty = [config.name for config in configs if not counts[config.name]]
        _judge(found, verification, findings, empty)
        check_cohorts(configs, +unlinked)
        for name, count in errors.items():
            if count / (count + counts[name]) > verification.max_excluded_fraction:
                raise DataError(
                    f"source {name}",
                    f"{count} films or rows with errors beside {counts[name]} sound films, listed "
                    f"in {findings.with_suffix('.csv')}",
                    "repair what is wrong with all of it, or raise "
                    "`verification.max_excluded_fraction`",
                )
        codes = {f"{severity}: {code}": n for (severity, code), n in found.counts.items()}
        left_out: dict[str, dict[str, int]] = {config.name: {} for config in configs}
        for (source, reason), count in sorted(found.left_out.items()):
            left_out.setdefault(source, {})[reason] = count
        said = {"films": dict(counts), "published": published, "findings": codes}
        write_json(summary, said | {"left_out": left_out})


def _say_films(
    configs: Sequence[ChestSourceConfig],
    published: Mapping[str, Mapping[str, int]],
    findings: Issues,
) -> None:
    """Say how many films each source has, by published split, and what was left out and why."""
    for config in configs:
        splits = sorted(published[config.name].items())
        shown = ", ".join(f"{n} {split}" for split, n in splits)
        films = sum(n for _, n in splits)
        log(f"{config.name}: {films} films in {config.root} (published: {shown})")
    for (source, reason), count in sorted(findings.left_out.items()):
        log(f"{source}: left out: {count} x {reason}")


def _check_splits(published: Mapping[str, Mapping[str, int]], findings: Issues) -> None:
    """Warn of splits for which no source publishes a film (split-empty), as far as can be told.

    Validation films need not be published: `films.splits.val` of the training patients are some.
    """
    given = {split for counts in published.values() for split, n in counts.items() if n}
    expected = {
        "train": (not given & {"train", "none"}, "films to train on", "add a source that has some"),
        "test": (
            "test" not in given,
            "films to test on",
            "name a source that only tests in `films.splits.test`; else nothing is evaluated",
        ),
    }
    for split, (empty, wanted, remedy) in expected.items():
        if given and empty:
            found = f"no film of {', '.join(published)} is published for {split}"
            findings.announce("split-empty", "all sources", found, wanted, remedy)


def _judge(
    found: Issues, verification: ChestVerificationConfig, path: Path, empty: list[str]
) -> None:
    """Print the findings by kind, and stop at errors if that is configured."""
    for (severity, code), count in sorted(found.counts.items()):
        log(f"{severity} {code}: {count}")
    first = found.first_error
    errors = sum(n for (severity, _), n in found.counts.items() if severity == "error")
    if first is not None and (verification.on_error == "stop" or empty):
        raise DataError(
            first.case,
            f"{first.code}: {first.found} (expected {first.expected}); "
            f"{errors} errors in all, listed in {path.with_suffix('.csv')}",
            f"{first.remedy}, or set `on_error: exclude` to go on without such films"
            if not empty
            else f"{first.remedy}: no film of {empty} is sound",
        )
    if empty:
        raise DataError(f"sources {empty}", "have no film", "check their `root` and `views`")
