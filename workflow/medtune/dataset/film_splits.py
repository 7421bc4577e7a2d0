"""The split registry of an experiment's films."""

import json
from collections import Counter, defaultdict
from collections.abc import Mapping
from pathlib import Path

import pyarrow.parquet as pq

from medtune.config.films import FilmSplitsPart
from medtune.dataset.film_shards import INDEX, MEDIA, shard_names, table
from medtune.runtime.console import log
from medtune.sources.chest.splits import Published, assign, published_splits, write_splits
from medtune.sources.splits import tell_patients

# What to do about a split that nobody is in.
EMPTY = {
    "train": "add a source that is published for training, or that is not in `films.splits.test`",
    "val": "raise `films.splits.val`, or add a source that publishes a validation set",
    "test": "name a source that only tests in `films.splits.test`; else nothing is evaluated",
}


def shared_images(results: Path) -> list[set[str]]:
    """Return the groups of patients who share an image.

    Images are told by the SHA-256 of the source's file, or of what is stored: files with other
    heads may show the same.
    """
    first: dict[bytes, str] = {}  # of each file some bytes of its hash: there are many
    shared: dict[bytes, set[str]] = defaultdict(set)
    for shard in shard_names(results):
        films = pq.read_table(table(results, INDEX, shard), columns=["patient_id"])
        stored = pq.read_table(table(results, MEDIA, shard), columns=["source_sha256", "media"])
        for film, row in zip(films.to_pylist(), stored.to_pylist(), strict=True):
            patient = film["patient_id"]
            digests = [row["source_sha256"]] if row["source_sha256"] else []
            digests += [json.loads(row["media"])["sha256"]] if row["media"] else []
            for digest in digests:
                key = bytes.fromhex(digest[:24])
                if first.setdefault(key, patient) != patient:
                    shared[key] |= {first[key], patient}
    return list(shared.values())


def settle_splits(config: FilmSplitsPart, seed: int, results: Path, output: Path) -> None:
    """Write which patient is in which split; patients who share an image are treated as one.

    Args:
        config: The configuration.
        seed: The experiment's seed.
        results: Folder of the experiment.
        output: The table to write.
    """
    shared = shared_images(results)
    if shared:
        log(f"warning: {len(shared)} images are shared by several patients, who get one split")
    published = published_splits(results / INDEX)
    tell_mixed(published)
    splits = assign(published, config.splits, seed, shared)
    write_splits(output, splits)
    tell_patients(splits, EMPTY)


def expect_splits(config: FilmSplitsPart, seed: int, folder: Path) -> None:
    """Print the splits of an index before its images are read: patients who share one may move."""
    published = published_splits(folder)
    tell_mixed(published)
    tell_patients(assign(published, config.splits, seed), EMPTY)


def tell_mixed(published: Mapping[str, Published]) -> None:
    """Print how many patients have films in several splits of one source."""
    mixed: Counter[str] = Counter()
    for own in published.values():
        counts = Counter(source for source, split in own if split is not None)
        mixed.update(source for source, count in counts.items() if count > 1)
    for source, count in sorted(mixed.items()):
        log(
            f"warning: {source}: {count} patients have films in several splits; each gets one, "
            "test or else val, and what else there is of a test patient is left out"
        )
