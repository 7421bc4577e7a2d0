"""The index of all cases, and its division into shards, the unit of work of one job."""

import json
import os
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from medtune.config.data import SourceConfig
from medtune.records.case import Case, LeftOut, folders
from medtune.records.volume_files import volume_files
from medtune.runtime.console import log
from medtune.runtime.files import sha256_text
from medtune.runtime.tables import read_records, write_records
from medtune.sources import find_cases
from medtune.sources.left_out import left_out, sentence

# Paths that a thread looks at in one go, and threads: a look costs a server of files far more than
# this machine.
LOOKS, THREADS = 50, 16


def write_index(configs: Sequence[SourceConfig], path: Path) -> None:
    """Find the cases of all sources and write them, sorted by id, and beside them what is none."""
    cases = find_cases(configs)
    write_records(path, cases)
    rest = left_out(configs, cases)
    write_records(left_out_of(path), rest)
    for config in configs:
        own = [case for case in cases if case.source == config.name]
        patients = len({case.patient_id for case in own})
        without = sum(case.mask is None for case in own)
        note = f", {without} without a mask" if without else ""
        log(f"{config.name}: {len(own)} cases of {patients} patients{note} in {config.root}")
    if rest:
        log(sentence(rest))


def left_out_of(index: Path) -> Path:
    """Return the table, beside an index, of the folders with images that became no case."""
    return index.with_name("left_out.parquet")


def read_left_out(index: Path) -> list[LeftOut]:
    """Return the folders with images that became no case of an index."""
    return read_records(left_out_of(index), LeftOut)


def shard_count(index: Path, shard_size: int) -> int:
    """Return the number of shards of an index."""
    return int(-(-pq.read_metadata(index).num_rows // shard_size))


def shard_paths(index: Path, shard_size: int, folder: Path) -> list[Path]:
    """Return the tables of all shards of an index in a folder: 0000.parquet, 0001.parquet, ..."""
    return [folder / f"{shard:04d}.parquet" for shard in range(shard_count(index, shard_size))]


def read_shard(index: Path, shard: int, shard_size: int) -> list[Case]:
    """Return the cases of one shard."""
    return read_records(index, Case, shard * shard_size, shard_size)


TABLES = (".csv", ".csv.gz", ".tsv", ".parquet", ".json", ".txt")


def _seen(path: str, known: Mapping[str, str]) -> str:
    """Return a file's name and size, and its known hash or else its time."""
    try:
        status = os.stat(path)  # noqa: PTH116 - half the time of Path.stat, for every raw file
    except OSError:
        return f"{path} missing"
    return f"{path} {status.st_size} {known.get(path, status.st_mtime_ns)}"


def _hash_of_seen(look: Callable[[str], str], paths: Sequence[str]) -> str:
    """Return a hash of what is seen at some paths, many at a time: file servers make them wait."""
    parts = [paths[start : start + LOOKS] for start in range(0, len(paths), LOOKS)]
    with ThreadPoolExecutor(THREADS) as pool:
        seen = pool.map(lambda part: list(filter(None, map(look, part))), parts)
        return sha256_text("\n".join(line for lines in seen for line in lines))


@lru_cache(maxsize=1)
def _files(index: Path, _: int) -> pa.Table:
    """Return what an index says of files, as long as its time is the same."""
    return pq.read_table(index, columns=["source", "images", "mask", "brain_mask"])


def shard_inventory(
    index: Path, shard: int, shard_size: int, sources: Collection[str], known: Mapping[str, str]
) -> str:
    """Return a hash of what is seen of the files of a shard's cases without reading them.

    The index is read once for all shards, and nothing is looked at but the files of this one.

    Args:
        index: Table of all cases.
        shard: Number of the shard.
        shard_size: Cases of a shard.
        sources: Sources whose files are looked at.
        known: File -> hash of its content, for files whose times mean nothing.
    """
    cases = _files(index, index.stat().st_mtime_ns).slice(shard * shard_size, shard_size)
    paths: list[str] = []
    for case in cases.to_pylist():
        if case["source"] in sources:
            images = {volume["path"] for volume in json.loads(case["images"]).values()}
            for path in sorted(filter(None, images | {case["mask"], case["brain_mask"]})):
                paths += map(str, volume_files(path))
    return _hash_of_seen(lambda path: _seen(path, known), paths)


def inventory(roots: Iterable[str], known: Mapping[str, str]) -> str:
    """Return a hash of what is seen of all files below some folders without reading them.

    It changes when raw files are added, removed or replaced.
    """

    def look(folder: str) -> str:
        entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
        return "\n".join(_seen(entry.path, known) for entry in entries if entry.is_file())

    found = [str(folder) for root in sorted(roots) for folder in folders(Path(root))]
    return _hash_of_seen(look, found)


def tables_inventory(roots: Iterable[str]) -> str:
    """Return a hash of what is seen of tables, themselves or in folders, three levels deep."""
    found = {
        str(path)
        for root in roots
        for pattern in ("*", "*/*", "*/*/*.csv*")
        for path in ([Path(root)] if Path(root).is_file() else Path(root).glob(pattern))
        if path.name.endswith(TABLES)
    }
    return sha256_text("\n".join(_seen(path, {}) for path in sorted(found)))
