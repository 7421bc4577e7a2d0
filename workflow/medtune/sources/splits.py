"""The split registry: which patient is in which split, decided once for all tasks."""

import hashlib
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence

from medtune.config.data import SplitsConfig
from medtune.records.case import Case
from medtune.runtime.console import log
from medtune.runtime.errors import DataError

# What to do about a split that nobody is in.
EMPTY = {
    "train": "correct `splits.fixed` or the tables, or add patients",
    "val": "raise `splits.val`, or prescribe a source by `splits.fixed`",
    "test": "raise `splits.test`, or prescribe a source by `splits.fixed`; else nothing is tested",
}


def prescribed_split(case: Case, fixed: Mapping[str, str]) -> str | None:
    """Return the split a case must be in: of its source in the configuration, else its own."""
    return fixed.get(case.source) or case.split


def patient_groups(cases: Sequence[Case], same_images: Iterable[Sequence[str]]) -> dict[str, str]:
    """Map every patient to a group; patients whose cases share images are one group."""
    patients = {case.id: case.patient_id for case in cases}
    group = {patient: patient for patient in patients.values()}
    for names in same_images:
        linked = {group[patients[name]] for name in names if name in patients}
        if len(linked) > 1:
            first = min(linked)
            group = {patient: first if own in linked else own for patient, own in group.items()}
    return group


def _fixed(
    cases: Sequence[Case], group: Mapping[str, str], config: SplitsConfig
) -> dict[str, tuple[str, str]]:
    """Return group -> (prescribed split, a case that prescribes it)."""
    fixed: dict[str, tuple[str, str]] = {}
    for case in cases:
        split = prescribed_split(case, config.fixed)
        if split is None:
            continue
        known, other = fixed.setdefault(group[case.patient_id], (split, case.id))
        if known != split:
            raise DataError(
                case.id,
                f"is prescribed to {split}, but {other}, of the same patient or image, to {known}",
                "correct `splits.fixed` or the table, or remove one of the cases",
            )
    return fixed


def _strata(
    cases: Sequence[Case], group: Mapping[str, str], volumes: Mapping[str, float]
) -> dict[str, tuple[str, int]]:
    """Return group -> (source, lesion size): 0 without a lesion, else the tercile in its source."""
    source: dict[str, str] = {}
    largest: dict[str, float] = defaultdict(float)
    for case in sorted(cases, key=lambda case: case.id):
        name = group[case.patient_id]
        source.setdefault(name, case.source)
        largest[name] = max(largest[name], volumes.get(case.id, 0.0))
    strata = {}
    for own in set(source.values()):
        names = [name for name in source if source[name] == own]
        with_lesion = sorted((largest[name], name) for name in names if largest[name] > 0)
        for rank, (_, name) in enumerate(with_lesion):
            strata[name] = (own, 1 + 3 * rank // len(with_lesion))
        strata |= {name: (own, 0) for name in names if not largest[name]}
    return strata


def assign_splits(
    cases: Sequence[Case],
    config: SplitsConfig,
    seed: int,
    same_images: Iterable[Sequence[str]] = (),
    volumes: Mapping[str, float] | None = None,
) -> dict[str, str]:
    """Return the split of every patient.

    Prescribed splits are kept. The other patients are stratified by source and lesion size,
    ordered in each stratum by a hash of (seed, patient), and cut at the configured shares, which
    hold over all strata together; the order of the cases does not matter.

    Args:
        cases: All cases.
        config: Shares of val and test, fixed splits of sources, and a seed of its own if any.
        seed: The experiment's seed.
        same_images: Groups of case ids that share an image; they stay in one split.
        volumes: Lesion volume of each case in mL, for the strata.

    Raises:
        DataError: Two different splits are prescribed for one patient or image.
    """
    group = patient_groups(cases, same_images)
    fixed = {name: split for name, (split, _) in _fixed(cases, group, config).items()}
    strata = _strata(cases, group, volumes or {})
    decided = seed if config.seed is None else config.seed

    def order(name: str) -> tuple[tuple[str, int], str]:
        return strata[name], hashlib.sha256(f"{decided}/{name}".encode()).hexdigest()

    free = sorted(set(group.values()) - set(fixed), key=order)
    placed = {"test": 0, "val": 0}
    start = 0
    while start < len(free):
        end = start
        while end < len(free) and strata[free[end]] == strata[free[start]]:
            end += 1
        test = min(_due(config.test, end, placed["test"]), end - start)
        val = min(_due(config.val, end, placed["val"]), end - start - test)
        placed = {"test": placed["test"] + test, "val": placed["val"] + val}
        for position, name in enumerate(free[start:end]):
            in_test, in_val = position < test, position < test + val
            fixed[name] = "test" if in_test else "val" if in_val else "train"
        start = end
    return {patient: fixed[name] for patient, name in group.items()}


def _due(share: float, count: int, placed: int) -> int:
    """Return how many of the first `count` are still to be placed, so that the sums come out."""
    return max(0, int(share * count + 0.5) - placed)


def tell_patients(splits: Mapping[str, str], remedies: Mapping[str, str] = EMPTY) -> None:
    """Print how many patients are in each split, and warn of those that nobody is in.

    Args:
        splits: Patient -> split.
        remedies: Split -> what to do where it is empty.
    """
    counts = Counter(splits.values())
    for split, remedy in remedies.items():
        log(f"{split}: {counts[split]} patients")
        if not counts[split]:
            log(f"warning: no patient is in `{split}`: {remedy}")


def audit(splits: Mapping[str, Iterable[Case]], same_images: Iterable[Sequence[str]]) -> None:
    """Check that no patient and no image is in two splits.

    Args:
        splits: Split -> its cases, as written.
        same_images: Groups of case ids that share an image.

    Raises:
        DataError: There is a leak.
    """
    patients: dict[str, str] = {}
    cases: dict[str, str] = {}
    for split, members in splits.items():
        for case in members:
            cases[case.id] = split
            if patients.setdefault(case.patient_id, split) != split:
                raise DataError(
                    case.id,
                    f"its patient is in {split} and in {patients[case.patient_id]}",
                    "this is a fault of medtune: please report it",
                )
    for names in same_images:
        found = {cases[name] for name in names if name in cases}
        if len(found) > 1:
            raise DataError(
                names[0],
                f"shares an image with {list(names[1:])}, in the splits {sorted(found)}",
                "this is a fault of medtune: please report it",
            )
