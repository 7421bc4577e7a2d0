"""The index of all cases, and its division into shards, the unit of work of one job."""

import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import pyarrow.parquet as pq

from medtune.console import say
from medtune.files import sha256_text
from medtune.media.volume_files import volume_files
from medtune.sections.data import SourceConfig
from medtune.sources import find_cases
from medtune.sources.base import Case, LeftOut, folders
from medtune.sources.left_out import left_out, sentence
from medtune.tables import read_records, write_records


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
        say(f"{config.name}: {len(own)} cases of {patients} patients{note} in {config.root}")
    if rest:
        say(sentence(rest))


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
    return read_records(index, Case)[shard * shard_size : (shard + 1) * shard_size]


TABLES = (".csv", ".csv.gz", ".tsv", ".parquet", ".json", ".txt")


def _seen(path: str, known: Mapping[str, str]) -> str:
    """Return a file's name and size, and its known hash or else its time."""
    if not Path(path).exists():
        return f"{path} missing"
    status = Path(path).stat()
    return f"{path} {status.st_size} {known.get(path, status.st_mtime_ns)}"


def case_files(cases: Iterable[Case], known: Mapping[str, str]) -> str:
    """Return a hash of what is seen of the files of some cases without reading them.

    Args:
        cases: The cases.
        known: File -> hash of its content, for files whose times mean nothing.
    """
    lines = []
    for case in cases:
        paths = {volume.path for volume in case.images.values()} | {case.mask, case.brain_mask}
        for path in sorted(filter(None, paths)):
            lines += [_seen(file, known) for file in volume_files(path)]
    return sha256_text("\n".join(lines))


def inventory(roots: Iterable[str], known: Mapping[str, str]) -> str:
    """Return a hash of what is seen of all files below some folders without reading them.

    It changes when raw files are added, removed or replaced.
    """
    lines = []
    for root in sorted(roots):
        for folder in folders(Path(root)):
            for entry in sorted(os.scandir(folder), key=lambda entry: entry.name):
                if entry.is_file():
                    lines.append(_seen(entry.path, known))
    return sha256_text("\n".join(lines))


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
