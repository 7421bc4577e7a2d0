"""The split registry of chest films: one split per patient, over all sources.

Published test sets stay as they are, neither smaller nor larger. A patient who is in the test set
of any source trains nowhere: what other sources publish of them for training is withheld. Chest
ImaGenome and MS-CXR are about films of MIMIC-CXR and share its patients; CheXpert-Plus shares those
of CheXpert.
"""

import hashlib
from collections import defaultdict
from collections.abc import Container, Iterable, Mapping
from pathlib import Path
from typing import Literal

import pyarrow.parquet as pq

from medtune.config.chest_sources import ChestSplitsConfig
from medtune.records.film import Film
from medtune.runtime.errors import DataError
from medtune.runtime.tables import read_rows, write_rows

Split = Literal["train", "val", "test"]
Published = frozenset[tuple[str, Split | None]]


def published_splits(folder: Path) -> dict[str, Published]:
    """Return patient -> (source, split) of their films, from an index; None: it publishes none."""
    found: dict[str, Published] = {}
    same: dict[Published, Published] = {}  # few differ: each is held once
    for path in sorted(folder.glob("*.parquet")):
        table = pq.read_table(path, columns=["patient_id", "source", "split"])
        for patient, source, split in zip(*(one.to_pylist() for one in table), strict=True):
            own = found.get(patient, frozenset()) | {(source, split)}
            found[patient] = same.setdefault(own, own)
    return found


def assign(
    published: Mapping[str, Published],
    config: ChestSplitsConfig,
    seed: int,
    same_images: Iterable[Iterable[str]] = (),
) -> dict[str, Split]:
    """Return the split of every patient.

    Test if any source says so or only tests, else val if any does, else train; of patients whose
    sources publish no validation set, `config.val` validate, chosen by a hash of seed and patient.
    Nothing depends on the order of patients or films.

    Args:
        published: See `published_splits`.
        config: Sources that only test or follow the others, share of val.
        seed: The experiment's seed.
        same_images: Groups of patients that share an image; they are treated as one.
    """
    leader = _leaders(published, same_images)
    merged: dict[str, Published] = defaultdict(frozenset)
    for patient, first in leader.items():
        merged[first] |= published[patient]
    kinds = set(published.values())
    with_val = {source for own in kinds for source, split in own if split == "val"}
    splits = {}
    for patient in sorted(published):
        first = leader.get(patient, patient)
        own = merged.get(first, published[first])
        splits[patient] = _split(first, own, with_val, config, seed)
    return splits


def _leaders(patients: Container[str], same_images: Iterable[Iterable[str]]) -> dict[str, str]:
    """Return linked patient -> the first patient of those linked to them by images."""
    leader: dict[str, str] = {}
    for group in same_images:
        known = {patient for patient in group if patient in patients}
        linked = {leader.get(patient, patient) for patient in known}
        members = known | {patient for patient, first in leader.items() if first in linked}
        leader |= dict.fromkeys(members, min(linked, default=""))
    return leader


def _split(
    patient: str,
    own: Iterable[tuple[str, Split | None]],
    with_val: set[str],
    config: ChestSplitsConfig,
    seed: int,
) -> Split:
    if any(source in config.test for source, _ in own):
        return "test"
    own = [pair for pair in own if pair[0] not in config.inherit_split_from] or list(own)
    splits = {split for _, split in own}
    if "test" in splits:
        return "test"
    if "val" in splits:
        return "val"
    if any(source in with_val for source, _ in own):
        return "train"
    digest = hashlib.sha256(f"{seed}/{patient}".encode()).digest()
    return "val" if int.from_bytes(digest[:8]) < config.val * 2**64 else "train"


def film_split(film: Film, splits: Mapping[str, Split], config: ChestSplitsConfig) -> Split | None:
    """Return the split that a film is used in, or None: it is withheld.

    Withheld are films that are published for training or validation, of a patient whom another
    source tests: used, they would leak, or enlarge a published test set.
    """
    split = splits[film.patient_id]
    if film.source in (*config.inherit_split_from, *config.test):
        return split
    return None if split == "test" and film.split in ("train", "val") else split


def write_splits(path: Path, splits: Mapping[str, Split]) -> None:
    """Write the registry: patient_id, split."""
    write_rows(path, [{"patient_id": name, "split": one} for name, one in sorted(splits.items())])


def read_splits(path: Path) -> dict[str, Split]:
    """Return the registry that `write_splits` wrote."""
    return {row["patient_id"]: row["split"] for row in read_rows(path)}


def check_leaks(used: Iterable[tuple[str, str]], what: str = "patient") -> None:
    """Check that nothing is in two splits.

    Args:
        used: (patient, split) of everything that is used, of all sources and tasks; or (SHA-256
            of an image, split).
        what: The word for the first of the two.

    Raises:
        DataError: There is a leak; some of the patients are named.
    """
    seen: dict[str, str] = {}
    leaks: dict[str, set[str]] = defaultdict(set)
    for name, split in used:
        if seen.setdefault(name, split) != split:
            leaks[name] |= {seen[name], split}
    if leaks:
        shown = [f"{name} ({', '.join(sorted(leaks[name]))})" for name in sorted(leaks)[:10]]
        raise DataError(
            f"{what} {sorted(leaks)[0]}",
            f"{len(leaks)} in more than one split: {'; '.join(shown)}",
            "take every film's split from the registry of splits",
        )
