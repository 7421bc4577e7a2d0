"""What a language model writes about a shard of films: filtered reports, talks, reasoning."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path

from medtune.config.chest_sources import ChestSourceConfig
from medtune.config.films import TALKS, FilmTextsPart, tasks_of
from medtune.dataset.film_account import Account
from medtune.dataset.film_given import conversation_files, given_reports, given_talks, write_given
from medtune.dataset.film_samples import (
    FILTER,
    REASONING,
    TALK,
    film_samples,
    report_key,
    unfiltered,
)
from medtune.dataset.film_shards import MEDIA, TEXTS, read_shard, read_stored, read_texts, table
from medtune.llm.serve import served
from medtune.metrics.labeler import read_labels
from medtune.metrics.labels import mark_hedged
from medtune.runtime.files import sha256_text
from medtune.sources.chest.splits import Split
from medtune.tasks.chest.xray import PARTS
from medtune.texts.items import ConversationItem, NamedBox, RationaleItem, report_items
from medtune.texts.run import run_step
from medtune.texts.steps import StepName, get_step

SEED = 1  # of what is written: test questions do not follow the experiment's seed


def chosen(name: str, share: float, seed: int, what: str) -> bool:
    """Return whether an id is in a share of all; it follows from seed and id."""
    return int(sha256_text(f"{seed}/{what}/{name}")[:13], 16) / 16**13 < share


def write_texts(
    config: FilmTextsPart, results: Path, shard: str, cache: Path, log: Path
) -> list[Path]:
    """Filter the reports of a shard and make its conversations; return the tables.

    Where a source has texts that others made, these are checked and taken. What a source is not
    good for gives an empty table. Every answer is kept in `cache`: a second run asks for what is
    missing. The experiment's seed decides nothing here.

    Args:
        config: The configuration, with `texts` or such a source.
        results: Folder of the experiment.
        shard: Name of the shard.
        cache: Folder of answers.
        log: File that a local server writes to.

    Raises:
        MedtuneError: See `run_step`.
    """
    films = read_shard(results, shard)
    filtered, talked = (table(results, f"{TEXTS}/{step}", shard) for step in (FILTER, TALK))
    source = next(one for one in config.sources if one.name == films[0].source)
    reports = report_items(films) if config.filters(source) and _wants_reports(source.kind) else []
    llm, step = config.texts.llm if config.texts else None, TALKS.get(source.kind, "conversation")
    filters, talks = not source.filtered_reports, not source.conversations
    # Else no server need start.
    asks = bool(filters and reports) or (talks and source.kind in TALKS)
    with served(llm, log, results / MEDIA) if llm and asks else nullcontext(llm) as model:
        if model and filters:
            run_step(model, "filter", reports, cache, filtered, rejects(filtered), SEED)
        else:
            found = given_reports(source, films, reports)
            write_given(get_step("filter"), found, filtered, rejects(filtered))
        items = list(_talks(config, results, shard, source))
        if model and talks:
            run_step(model, step, items, cache, talked, rejects(talked), SEED)
        else:
            _write_given_talks(source, step, results, shard, items, talked)
    return [filtered, talked]


def _write_given_talks(
    source: ChestSourceConfig,
    step: StepName,
    results: Path,
    shard: str,
    items: Sequence[ConversationItem],
    output: Path,
) -> None:
    """Check the conversations of a shard that others made, and write their tables."""
    geometries = {
        f"{film.source}/{film.image_id}": geometry
        for film, _, geometry in read_stored(results, shard)
    }

    def boxed(item: ConversationItem) -> dict[tuple[float, ...], str]:
        sides = geometries[item.id].size * 2
        return {
            tuple(edge / side for edge, side in zip(one.box, sides, strict=True)): one.text
            for one in item.regions
        }

    files = conversation_files(Path(source.conversations), step) if source.conversations else {}
    found = given_talks(files, items, boxed)
    write_given(get_step(step), found, output, rejects(output))


def rejects(output: Path) -> Path:
    """Return the table of refused answers beside a table of texts."""
    return output.with_suffix(".rejects.parquet")


def _wants_reports(kind: str) -> bool:
    return "report_generation" in tasks_of(kind) or TALKS.get(kind) == "conversation_grounded"


def _talks(
    config: FilmTextsPart, results: Path, shard: str, source: ChestSourceConfig
) -> Iterator[ConversationItem]:
    """Yield what is known of the films that get a conversation, or have one."""
    step, texts, filters = TALKS.get(source.kind), config.texts, config.filters(source)
    if step is None or not (texts or source.conversations):
        return
    shares = texts.conversations if texts else {}
    filtered = read_texts(results, FILTER, shard) if filters else {}
    for film, _, geometry in read_stored(results, shard):
        name = f"{film.source}/{film.image_id}"
        if not chosen(name, shares.get(film.source, 1.0), SEED, "talk"):
            continue
        kept = filtered.get(report_key(film), {}).get("report")
        report = kept if filters else unfiltered(film)
        boxes = tuple(
            NamedBox(name=region.name, box=geometry.to_frame(region.box))
            for region in film.regions
            if region.kind != "anatomy"
        )
        item = ConversationItem(
            id=name,
            source=film.source,
            report=None if step == "conversation_sentences" else report,
            labels=mark_hedged(film.labels, read_labels(report or "")),
            regions=() if step == "conversation" else boxes,
            view=film.view,
            sex=film.sex,
        )
        known = item.regions if step != "conversation" else (item.report or item.labels)
        if known:
            yield item


def write_reasoning(
    config: FilmTextsPart,
    seed: int,
    results: Path,
    shard: str,
    splits: Mapping[str, Split],
    cache: Path,
    log: Path,
) -> Path:
    """Write the reasoning that leads to the truths of a share of a shard's training samples.

    Args and errors: see `write_texts`; `splits` is the registry. The experiment's `seed` decides
    which samples they are, and nothing of what is written.
    """
    texts = config.texts
    assert texts is not None
    output = table(results, f"{TEXTS}/{REASONING}", shard)
    items = [
        RationaleItem(
            id=sample.id,
            source=sample.source,
            image=results / MEDIA / sample.media[0].path.removeprefix(f"../{MEDIA}/"),
            question=sample.prompt,
            answer=sample.target or "",
        )
        for sample in film_samples(results, shard, config, seed, splits, Account(), reasoned=False)
        if sample.split == "train"
        and PARTS[sample.task].reasons
        and chosen(sample.id, texts.reasoning, seed, "reasoning")
    ]
    with served(texts.llm, log, results / MEDIA) if items else nullcontext(texts.llm) as llm:
        run_step(llm, "reasoning", items, cache, output, rejects(output), SEED)
    return output
