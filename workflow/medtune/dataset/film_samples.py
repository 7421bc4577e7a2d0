"""The samples of a shard of films: what its source is good for, with what was written."""

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from medtune.config.chest_sources import ChestSourceConfig
from medtune.config.films import FilmTextsPart, tasks_of
from medtune.dataset.film_account import Account
from medtune.dataset.film_shards import MEDIA, read_stored, read_texts
from medtune.records.film import Film
from medtune.records.sample import Sample, Turn
from medtune.runtime.errors import DataError
from medtune.sources.chest.fusion import fuse, undecided
from medtune.sources.chest.splits import Split, film_split
from medtune.sources.chest.wordless import has_words
from medtune.tasks.chest.samples import NO_REPORT, Extras, LeftOut, make_samples
from medtune.texts.items import SECTIONS

FILTER, TALK, REASONING = "filter", "talk", "reasoning"
WITHHELD = "film for training or validation of a patient who is tested"
REFUSED = "report of which the filter left nothing, or whose filtering was refused"
WORDLESS = "report without words"


def report_key(film: Film) -> str:
    """Return the name under which a film's filtered report is kept: reports are of studies."""
    return f"{film.source}/{film.study_id}"


def unfiltered(film: Film) -> str | None:
    """Return the first section of a film's report that says anything."""
    said = (film.report.get(name, "").strip() for name in SECTIONS)
    return next((text for text in said if text), None)


def _rounds(talk: Mapping[str, Any] | None) -> tuple[Turn, ...]:
    turns = [turn["text"] for turn in talk["turns"]] if talk else []
    return tuple(Turn(prompt=a, target=b) for a, b in zip(turns[::2], turns[1::2], strict=True))


def film_samples(
    results: Path,
    shard: str,
    config: FilmTextsPart,
    seed: int,
    splits: Mapping[str, Split],
    account: Account,
    reasoned: bool = True,
) -> Iterator[Sample]:
    """Yield the samples of a shard, with media paths relative to a folder in `results`.

    Args:
        results: Folder of the experiment.
        shard: Name of the shard.
        config: Sources, fusion and what is written by a language model.
        seed: The experiment's seed.
        splits: The registry.
        account: Is counted up with what was left out, and what fusion did.
        reasoned: Whether the reasoning has been written, where there shall be any.

    Raises:
        DataError: A table is missing, or a reasoning leads to another truth than its sample's.
    """
    sources = {source.name: source for source in config.sources}
    # What an earlier configuration has written does not count.
    filtered = _written(config, results, FILTER, shard, config.filters)
    talks = _written(config, results, TALK, shard, config.has_talks)
    thinks = config.texts is not None and config.texts.reasoning > 0 and reasoned
    thoughts = read_texts(results, REASONING, shard) if thinks else {}
    given = {name: thought["reasoning"] for name, thought in thoughts.items()}
    for film, media, geometry in read_stored(results, shard, account.left_out):
        split = film_split(film, splits, config.splits)
        if split is None:
            account.left_out[LeftOut(film.source, "", "film", WITHHELD)] += 1
            continue
        fused, source = fuse(film, config.fusion), sources[film.source]
        account.fused(film, fused)
        tasks = _tasks(source, config)
        report, no_report = _report(film, filtered if config.filters(source) else None)
        account.reported(film, report if "report_generation" in tasks else None)
        rounds = _rounds(talks.get(f"{film.source}/{film.image_id}"))
        grounded = "grounded_conversation" in tasks
        extras = Extras(
            tasks=tasks,
            report=report,
            no_report=no_report,
            undecided=undecided(film, fused),
            talk=() if grounded else rounds,
            grounded_talk=rounds if grounded else (),
            thoughts=given if split == "train" else {},
            anatomy_questions_per_image=config.anatomy_questions_per_image,
            test_anatomy_questions_per_image=config.test_anatomy_questions_per_image,
            seed=seed,
            dropped=account.left_out,
        )
        shown = media.model_copy(update={"path": f"../{MEDIA}/{media.path}"})
        for sample in make_samples(fused, geometry, shown, split, extras):
            _check_thought(sample, thoughts)
            yield sample


def _tasks(source: ChestSourceConfig, config: FilmTextsPart) -> frozenset[str]:
    """Return the tasks that a source's films serve."""
    tasks = tasks_of(source.kind, config.has_talks(source))
    return tasks if source.draws_everything else tasks - {"abnormality_detection"}


def _report(film: Film, filtered: Mapping[str, Any] | None) -> tuple[str | None, str]:
    """Return the report that is learned, or why there is none."""
    written = unfiltered(film)
    report = written
    if filtered is not None and written:
        report = filtered.get(report_key(film), {}).get("report")
        if report is None:
            return None, REFUSED
    if report and not has_words(report):
        return None, WORDLESS
    return report, NO_REPORT


def _written(
    config: FilmTextsPart,
    results: Path,
    step: str,
    shard: str,
    wanted: Callable[[ChestSourceConfig], bool],
) -> dict[str, Any]:
    """Return the texts of a step, if the configuration wants them of any source."""
    return read_texts(results, step, shard) if any(map(wanted, config.sources)) else {}


def _check_thought(sample: Sample, thoughts: Mapping[str, Any]) -> None:
    """Check that a reasoning leads to the truth that its sample has now.

    Raises:
        DataError: It leads to another.
    """
    thought = thoughts.get(sample.id) if sample.split == "train" else None
    if thought and thought["answer"].split() != (sample.target or "").split():
        raise DataError(
            sample.id,
            f"the reasoning leads to {thought['answer']!r}, and the truth is {sample.target!r}",
            "run `snakemake -R film_reasoning`",
        )
