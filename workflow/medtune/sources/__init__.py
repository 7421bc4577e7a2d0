"""Data sets: where their cases are and what their labels mean."""

from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path

from medtune.errors import ConfigError, DataError
from medtune.sections.data import SourceConfig
from medtune.sources.base import REGIONS, Case, Source
from medtune.sources.brats import RELEASES
from medtune.sources.msd import MSD_BRAIN
from medtune.sources.table import Table

# What to do about a case that is there twice.
TWICE = {
    "table": "remove one of the rows, or give each a case_id of its own",
    "msd_brain": "remove one of the files",
}
TWICE_IN_FOLDERS = "remove the copies, or make each folder of releases a source of its own"


def get_source(config: SourceConfig) -> Source:
    """Return the module that reads a source."""
    if config.kind == "table":
        return Table.of(config)
    return MSD_BRAIN if config.kind == "msd_brain" else RELEASES[config.kind]


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


def find_cases(configs: Iterable[SourceConfig]) -> list[Case]:
    """Return the cases of all sources, sorted by id.

    Raises:
        DataError: A folder is missing, holds no case of its kind, or holds a case twice.
    """
    cases: list[Case] = []
    for config in configs:
        root = _check_root(config)
        found = get_source(config).find(config)
        if not found:
            raise DataError(
                root,
                f"holds no case named like `{config.kind}`"
                if config.table is None
                else f"has no rows in {config.table}",
                "check `sources[].kind` and `sources[].root`",
            )
        known = {"background": config.background_value}
        cases += [case.model_copy(update=known) for case in found]
        _check_once(found, config)
    return sorted(cases, key=lambda case: case.id)


def _check_once(cases: Iterable[Case], config: SourceConfig) -> None:
    """Check that no case of a source is there twice."""
    places = defaultdict(list)
    for case in cases:
        files = [*(image.path for image in case.images.values()), *case.absent.values()]
        places[case.id].append(case.origin or min(files))
    twice = {name: sorted(where) for name, where in places.items() if len(where) > 1}
    if twice:
        first = min(twice)
        raise DataError(
            first,
            f"found more than once ({len(twice)} such cases): {' and '.join(twice[first][:3])}",
            TWICE.get(config.kind, TWICE_IN_FOLDERS),
        )
