"""Data sets: where their cases are and what their labels mean."""

from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path

from medtune.config.data import SourceConfig
from medtune.records.case import REGIONS, Case, Source, Usual
from medtune.runtime.errors import ConfigError, DataError
from medtune.sources.brain.brats import RELEASES
from medtune.sources.brain.msd import USUAL, Described
from medtune.sources.left_out import held_instead
from medtune.sources.nearby import whats_there
from medtune.sources.table import Table

# What to do about a case that is there twice.
TWICE = {
    "table": "remove one of the rows, or give each a case_id of its own",
    **dict.fromkeys(("msd_brain", "nnunet"), "remove one of the files"),
}
TWICE_IN_FOLDERS = "remove the copies, or make each folder of releases a source of its own"


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
        there = "there is a file of that name" if root.exists() else whats_there(root)
        raise DataError(
            root,
            f"the folder of source `{config.name}` does not exist ({there})",
            "put the data there or correct `sources[].root`",
        )
    return root


def _no_case(config: SourceConfig, root: Path) -> DataError:
    if config.table is not None:
        return DataError(root, f"has no rows in {config.table}", "check `sources[].table`")
    there, remedy = held_instead(config)
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
        _check_once(found, config)
        known = {"background": config.background_value}
        cases += [case.model_copy(update=known).with_form(config.nifti_form) for case in found]
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
