"""Data sets: where their cases are and what their labels mean."""

from collections.abc import Iterable
from pathlib import Path

from medtune.config import SourceConfig
from medtune.errors import DataError
from medtune.sources.base import Case, Source
from medtune.sources.brats import BRATS2018, BRATS2023
from medtune.sources.msd import MSD_BRAIN

KINDS: dict[str, Source] = {
    "brats2018": BRATS2018,
    "brats2023": BRATS2023,
    "msd_brain": MSD_BRAIN,
}


def check_root(config: SourceConfig) -> Path:
    """Return a source's folder, or raise a `DataError` if it is missing."""
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
        DataError: A folder is missing or holds no case of its kind.
    """
    cases = []
    for config in configs:
        root = check_root(config)
        found = KINDS[config.kind].find(root)
        if not found:
            raise DataError(
                root,
                f"holds no case named like `{config.kind}`",
                "check `sources[].kind` and `sources[].root`",
            )
        for case_id, patient_id, images, mask in found:
            cases.append(
                Case(
                    source=config.name,
                    case_id=case_id,
                    patient_id=f"{config.kind}:{patient_id}",
                    images=images,
                    mask=mask,
                    split=config.split,
                )
            )
    return sorted(cases, key=lambda case: case.id)
