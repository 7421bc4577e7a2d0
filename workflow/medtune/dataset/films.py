"""Films to the data set of samples, streamed: a shard is in memory at a time."""

from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from medtune.config.films import FilmTextsPart
from medtune.config.stages import FilmAnnotateStage
from medtune.dataset.film_account import Account, add_index, check_sources, write_account
from medtune.dataset.film_samples import FILTER, REASONING, TALK, film_samples
from medtune.dataset.film_shards import INDEX, MEDIA, TEXTS, shard_names, table
from medtune.records.sample import SPLITS, Sample, write_dataset
from medtune.runtime.console import log, track
from medtune.runtime.files import MANIFEST, atomic_folder, write_manifest
from medtune.sources.chest.splits import Split, check_leaks, read_splits, write_splits

REGISTRY, SUMMARY = "index/splits.parquet", "index/verification.json"


def parents_of_dataset(config: FilmTextsPart, results: Path) -> list[Path]:
    """Return what the data set is made from."""
    shards, texts = shard_names(results), config.texts
    steps = [FILTER, TALK] if config.has_texts else []
    steps += [REASONING] if texts and texts.reasoning else []
    written = [table(results, f"{TEXTS}/{step}", shard) for step in steps for shard in shards]
    images = [table(results, MEDIA, shard) for shard in shards]
    return [results / INDEX / MANIFEST, *images, *written, results / REGISTRY]


def annotate_films(stage: FilmAnnotateStage, results: Path, folder: Path) -> None:
    """Write the data set folder: splits and samples, as Arrow, and the account.

    Args:
        stage: The configuration.
        results: Folder of the experiment.
        folder: The data set folder, in it; replaced as a whole.

    Raises:
        DataError: A patient or an image would be in two splits, or a source gives no sample.
    """
    splits, account = read_splits(results / REGISTRY), Account()
    add_index(account, results / SUMMARY)
    patients: set[tuple[str, Split]] = set()
    images: set[tuple[bytes, str]] = set()

    def samples() -> Iterator[Sample]:
        for shard in track(shard_names(results), "samples"):
            for sample in film_samples(results, shard, stage.films, stage.seed, splits, account):
                account.sampled(sample)
                patients.add((sample.patient_id, sample.split))  # type: ignore[arg-type]
                images.add((bytes.fromhex(sample.media[0].sha256[:24]), sample.split))
                yield sample

    with atomic_folder(folder) as temporary:
        write_dataset(samples(), temporary)
        check_leaks(patients)
        check_leaks(((name.hex(), split) for name, split in images), "image")
        check_sources(account, stage.films)
        write_splits(temporary / "splits.parquet", splits)
        write_account(account, stage.films, temporary)
        files = [path for path in temporary.rglob("*") if path.is_file()]
        config = stage.model_dump(mode="json")
        parents = parents_of_dataset(stage.films, results)
        write_manifest(temporary, files, config, parents, stage="annotate_films")
    counts: Counter[tuple[str, str]] = Counter()
    for (_, task, split), count in account.samples.items():
        counts[task, split] += count
    for task in sorted({task for task, _ in counts}):
        log(f"{task}: " + ", ".join(f"{counts[task, split]} {split}" for split in SPLITS))
    log(f"data set: {folder / MANIFEST}")
