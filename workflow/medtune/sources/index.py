"""The index of all cases, and its division into shards, the unit of work of one job."""

from collections.abc import Sequence
from pathlib import Path

from medtune.config import SourceConfig
from medtune.console import say
from medtune.sources import find_cases
from medtune.sources.base import Case
from medtune.tables import read_records, write_records


def write_index(configs: Sequence[SourceConfig], path: Path) -> None:
    """Find the cases of all sources and write them, sorted by id."""
    cases = find_cases(configs)
    write_records(path, cases)
    for config in configs:
        own = [case for case in cases if case.source == config.name]
        patients = len({case.patient_id for case in own})
        say(f"{config.name}: {len(own)} cases of {patients} patients in {config.root}")


def shard_count(cases: int, shard_size: int) -> int:
    """Return the number of shards for a number of cases."""
    return -(-cases // shard_size)


def read_shard(index: Path, shard: int, shard_size: int) -> list[Case]:
    """Return the cases of one shard."""
    return read_records(index, Case)[shard * shard_size : (shard + 1) * shard_size]
