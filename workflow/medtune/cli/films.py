"""The verbs of chest films, from their sources to the data set."""

from contextlib import ExitStack
from pathlib import Path
from typing import Annotated

import typer

from medtune.cli.options import ConfigOption, Results
from medtune.config.stages import (
    FilmAnnotateStage,
    FilmFindingsStage,
    FilmImagesStage,
    FilmIndexStage,
    FilmSplitsStage,
    FilmTextsStage,
    FilmVerifyStage,
    load_stage,
)
from medtune.runtime.files import (
    MANIFEST,
    check_parents,
    exclusive_lock,
    with_manifest,
    write_manifest,
)

Shard = Annotated[str, typer.Option(help="Name of the shard: 0000, 0001, ...")]


def film_index(
    config: ConfigOption,
    results: Results,
    table: Annotated[Path, typer.Option(help="Table of all findings, written in any case.")],
) -> None:
    """Find, join and check the films of all sources."""
    from medtune.dataset.film_shards import INDEX
    from medtune.sources.chest.index import write_index

    stage, folder = load_stage(FilmIndexStage, config), results / INDEX
    summary = results / "index/verification.json"
    with exclusive_lock(folder):
        with with_manifest("film_index", stage, [], summary):
            films = stage.films
            write_index(films.sources, films.verification, folder, table, summary)
        read = stage.model_dump(mode="json")
        write_manifest(folder, folder.glob("*.parquet"), read, stage="film_index")


def film_verify(config: ConfigOption, results: Results, shard: Shard) -> None:
    """Read the header of every file of a shard of films, and look at its end."""
    from medtune.dataset.film_shards import INDEX, VERIFIED, read_shard, table
    from medtune.sources.chest.film_headers import look_at_shard
    from medtune.sources.chest.index import image_folder

    stage, output = load_stage(FilmVerifyStage, config), table(results, VERIFIED, shard)
    with (
        exclusive_lock(output),
        with_manifest("film_verify", stage, [results / INDEX / MANIFEST], output),
    ):
        films = read_shard(results, shard)
        roots = {source.name: image_folder(source) for source in stage.films.sources}
        look_at_shard(films, roots[films[0].source], output)


def film_findings(
    config: ConfigOption,
    results: Results,
    findings: Annotated[Path, typer.Option("--table", help="Table, written in any case.")],
    output: Annotated[Path, typer.Option(help="Counts of files and findings, as JSON.")],
) -> None:
    """Join what was seen of the files; stop at errors unless the configuration excludes films."""
    from medtune.dataset.film_shards import VERIFIED, shard_names, table
    from medtune.sources.chest.film_headers import gather_looks

    stage = load_stage(FilmFindingsStage, config)
    shards = [table(results, VERIFIED, shard) for shard in shard_names(results)]
    with with_manifest("film_findings", stage, shards, output):
        gather_looks(shards, stage.films.images, findings, output)


def film_images(
    config: ConfigOption,
    results: Results,
    shard: Shard,
    cache: Annotated[Path, typer.Option(help="Folder that notes what was converted.")],
    processes: Annotated[int | None, typer.Option(help="At a time; as many as cores.")] = None,
) -> None:
    """Convert a shard of films to stored images."""
    from medtune.dataset.film_shards import INDEX, MEDIA, number_in_source, read_shard, table
    from medtune.media.film_shard import convert_films
    from medtune.runtime.fingerprint import code_sha256
    from medtune.sources.chest.index import image_folder

    stage, output = load_stage(FilmImagesStage, config), table(results, MEDIA, shard)
    with (
        exclusive_lock(output),
        with_manifest("film_images", stage, [results / INDEX / MANIFEST], output),
    ):
        films = read_shard(results, shard)
        roots = {source.name: image_folder(source) for source in stage.films.sources}
        code = code_sha256("film_images")
        source = films[0].source
        journal = cache / f"{source}.{number_in_source(results, shard):04d}.jsonl"
        convert_films(
            stage.films.images,
            films,
            roots[source],
            output,
            journal,
            code=code,
            processes=processes,
        )


def film_splits(config: ConfigOption, results: Results) -> None:
    """Decide the split of every patient, once for all sources and tasks."""
    from medtune.dataset.film_shards import INDEX, MEDIA, shard_names, table
    from medtune.dataset.film_splits import settle_splits
    from medtune.dataset.films import REGISTRY

    stage, output = load_stage(FilmSplitsStage, config), results / REGISTRY
    images = [table(results, MEDIA, shard) for shard in shard_names(results)]
    with with_manifest("film_splits", stage, [results / INDEX / MANIFEST, *images], output):
        settle_splits(stage.films, stage.seed, results, output)


def film_texts(
    config: ConfigOption,
    results: Results,
    shard: Shard,
    cache: Annotated[Path, typer.Option(help="Folder of answers, kept for the next run.")],
) -> None:
    """Filter the reports of a shard and make its conversations, with a language model."""
    from medtune.dataset.film_shards import INDEX, MEDIA, TEXTS, table
    from medtune.dataset.film_texts import write_texts

    stage, log = load_stage(FilmTextsStage, config), _server_log(results, shard, "texts")
    parents = [results / INDEX / MANIFEST, table(results, MEDIA, shard)]
    outputs = [table(results, f"{TEXTS}/{step}", shard) for step in ("filter", "talk")]
    with exclusive_lock(outputs[0]), ExitStack() as records:
        for output in outputs:
            records.enter_context(with_manifest("film_texts", stage, parents, output))
        write_texts(stage.films, results, shard, cache, log)


def film_reasoning(
    config: ConfigOption,
    results: Results,
    shard: Shard,
    cache: Annotated[Path, typer.Option(help="Folder of answers, kept for the next run.")],
) -> None:
    """Write reasoning that leads to the truths of training samples, with a language model."""
    from medtune.dataset.film_shards import INDEX, MEDIA, TEXTS, table
    from medtune.dataset.film_texts import write_reasoning
    from medtune.dataset.films import REGISTRY
    from medtune.sources.chest.splits import read_splits

    stage = load_stage(FilmAnnotateStage, config)
    output = table(results, f"{TEXTS}/reasoning", shard)
    texts = [table(results, f"{TEXTS}/{step}", shard) for step in ("filter", "talk")]
    parents = [
        *(results / INDEX / MANIFEST, table(results, MEDIA, shard), results / REGISTRY),
        *texts,
    ]
    with exclusive_lock(output), with_manifest("film_reasoning", stage, parents, output):
        splits, log = read_splits(results / REGISTRY), _server_log(results, shard, "reasoning")
        write_reasoning(stage.films, stage.seed, results, shard, splits, cache, log)


def annotate_films(
    config: ConfigOption,
    results: Results,
    output: Annotated[Path, typer.Option(help="Folder of the data set; written atomically.")],
) -> None:
    """Write the data set of films: splits and samples, as Arrow."""
    from medtune.dataset.films import annotate_films as run
    from medtune.dataset.films import parents_of_dataset

    with exclusive_lock(output):
        stage = load_stage(FilmAnnotateStage, config)
        check_parents(parents_of_dataset(stage.films, results))
        run(stage, results, output)


def _server_log(results: Path, shard: str, step: str) -> Path:
    return results / f"logs/vllm/{step}.{shard}.log"
