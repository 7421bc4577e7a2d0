"""Data sets: where their cases are and what their labels mean."""

from collections import Counter
from collections.abc import Iterable
from pathlib import Path

from medtune.errors import ConfigError, DataError
from medtune.sections.data import SourceConfig
from medtune.sources.base import REGIONS, Case, Source, Usual
from medtune.sources.brats import RELEASES
from medtune.sources.left_out import whats_there
from medtune.sources.msd import USUAL, Described
from medtune.sources.table import Table


def get_source(config: SourceConfig) -> Source:
    """Return the module that reads a source."""
    if config.kind == "table":
        return Table.of(config)
    return RELEASES.get(config.kind) or Described.of(config)


def usual_of(kind: str) -> tuple[Usual, ...]:
    """Return what the labels of most cases of a kind of source are like."""
    return RELEASES[kind].usual if kind in RELEASES else USUAL


def check_source(config: SourceConfig, modalities: Iterable[str], region: str) -> None:
    """Check that a source exists and can serve what an experiment asks for.

    Raises:
        DataError: Its folder or table is missing.
        ConfigError: It has not all modalities, or no label of the region.
    """
    _check_root(config)
    source = get_source(config)
    lacking = [name for name in modalities if name not in source.modalities]
    if lacking:
        raise ConfigError(
            f"source `{config.name}`",
            f"has no modality {lacking}; it has {list(source.modalities)}",
            "correct `media.modalities`",
        )
    if not REGIONS[region] & set(source.labels.values()):
        raise ConfigError(
            f"source `{config.name}`",
            f"has no label of region {region}; it has {source.labels}",
            "choose another `task.region` or correct `sources[].labels`",
        )


def _check_root(config: SourceConfig) -> Path:
    root = Path(config.root)
    if not root.is_dir():
        raise DataError(
            root,
            f"the folder of source `{config.name}` does not exist",
            "put the data there or correct `sources[].root`",
        )
    return root


def _no_case(config: SourceConfig, root: Path) -> DataError:
    if config.table is not None:
        return DataError(root, f"has no rows in {config.table}", "check `sources[].table`")
    there, remedy = whats_there(config)
    release = RELEASES.get(config.kind)
    example = f" ({release.example})" if release else ""
    return DataError(
        root, f"holds no case named like `{config.kind}`{example}; it holds {there}", remedy
    )


def find_cases(configs: Iterable[SourceConfig]) -> list[Case]:
    """Return the cases of all sources, sorted by id.

    Raises:
        DataError: A folder is missing, holds no case of its kind, or holds a case twice.
    """
    configs, cases = list(configs), []
    for config in configs:
        root = _check_root(config)
        found = get_source(config).find(config)
        if not found:
            raise _no_case(config, root)
        cases += [case.with_form(config.nifti_form) for case in found]
    twice = [name for name, count in Counter(case.id for case in cases).items() if count > 1]
    if twice:
        named = {config.name: config for config in configs}
        copies = [case for case in cases if case.id == min(twice)]
        raise _twice(copies, len(twice), named[copies[0].source])
    return sorted(cases, key=lambda case: case.id)


def _twice(copies: list[Case], count: int, config: SourceConfig) -> DataError:
    paths = [next((volume.path for volume in copy.images.values()), copy.mask) for copy in copies]
    return DataError(
        copies[0].id,
        f"found more than once ({count} such cases), as {' and '.join(map(str, paths[:3]))}",
        f"give each row of {config.table} a case_id of its own"
        if config.table
        else "remove the copy, or make each folder of releases a source of its own",
    )
