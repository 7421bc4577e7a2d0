"""The split registry of an experiment's films."""

from pathlib import Path

from medtune.console import say
from medtune.films.shards import INDEX, MEDIA, read_shard, shard_names, table
from medtune.media.film_shard import StoredFilm, identical_films
from medtune.sections.films import FilmSplitsPart
from medtune.sources.chest.splits import assign, published_splits, write_splits
from medtune.tables import read_records


def settle_splits(config: FilmSplitsPart, seed: int, results: Path, output: Path) -> None:
    """Write which patient is in which split; patients who share an image are treated as one.

    Args:
        config: The configuration.
        seed: The experiment's seed.
        results: Folder of the experiment.
        output: The table to write.
    """
    stored: list[StoredFilm] = []
    patients: dict[str, str] = {}
    for shard in shard_names(results):
        stored += read_records(table(results, MEDIA, shard), StoredFilm)
        patients |= {f"{f.source}/{f.image_id}": f.patient_id for f in read_shard(results, shard)}
    same = [{patients[name] for name in names} for names in identical_films(stored)]
    shared = [group for group in same if len(group) > 1]
    if shared:
        say(f"warning: {len(shared)} images are shared by several patients, who get one split")
    splits = assign(published_splits(results / INDEX), config.splits, seed, shared)
    write_splits(output, splits)
    for split in ("train", "val", "test"):
        say(f"{split}: {sum(one == split for one in splits.values())} patients")
