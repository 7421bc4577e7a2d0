"""The split registry: which patient is in which split, decided once for all tasks."""

import hashlib
from collections.abc import Iterable, Sequence

from medtune.config import SplitsConfig
from medtune.errors import DataError
from medtune.sources.base import Case


def _groups(cases: Sequence[Case], same_images: Iterable[Sequence[str]]) -> dict[str, str]:
    """Map every patient to a group; patients whose cases share images are one group."""
    patients = {case.id: case.patient_id for case in cases}
    group = {patient: patient for patient in patients.values()}
    for names in same_images:
        linked = [group[patients[name]] for name in names if name in patients]
        for patient, name in group.items():
            if name in linked:
                group[patient] = min(linked)
    return group


def assign_splits(
    cases: Sequence[Case],
    config: SplitsConfig,
    seed: int,
    same_images: Iterable[Sequence[str]] = (),
) -> dict[str, str]:
    """Return the split of every patient.

    Fixed splits of sources are kept. The other patients are ordered by a hash of (seed, patient)
    and cut at the configured shares, so the split does not depend on the order of the cases.

    Args:
        cases: All cases.
        config: Shares of val and test.
        seed: The experiment's seed.
        same_images: Groups of case ids that share an image; they stay in one split.

    Raises:
        DataError: Sources prescribe two different splits for one patient.
    """
    group = _groups(cases, same_images)
    fixed: dict[str, str] = {}
    for case in cases:
        name = group[case.patient_id]
        if case.split and fixed.setdefault(name, case.split) != case.split:
            raise DataError(
                case.id,
                f"its patient is in {fixed[name]} by one source and in {case.split} by another",
                "give both sources the same `split`, or remove one of the cases",
            )
    free = sorted(
        set(group.values()) - set(fixed),
        key=lambda name: hashlib.sha256(f"{seed}/{name}".encode()).hexdigest(),
    )
    n_test, n_val = round(config.test * len(free)), round(config.val * len(free))
    for position, name in enumerate(free):
        fixed[name] = (
            "test" if position < n_test else "val" if position < n_test + n_val else "train"
        )
    return {patient: fixed[name] for patient, name in group.items()}
