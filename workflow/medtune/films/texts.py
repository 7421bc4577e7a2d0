"""What a language model writes about a shard of films: filtered reports, talks, reasoning."""

from collections.abc import Iterator, Mapping
from contextlib import nullcontext
from pathlib import Path

from medtune.files import sha256_text
from medtune.films.account import Account
from medtune.films.samples import (
    FILTER,
    REASONING,
    TALK,
    film_samples,
    report_key,
    unfiltered,
)
from medtune.films.shards import MEDIA, TEXTS, read_shard, read_stored, read_texts, table
from medtune.llm.items import ConversationItem, NamedBox, TraceItem, report_items
from medtune.llm.run import run_step
from medtune.llm.serve import served
from medtune.scores.labeller import read_labels
from medtune.scores.labels import with_doubts
from medtune.sections.films import TALKS, FilmTextsPart, TextsConfig, tasks_of
from medtune.sources.chest.splits import Split
from medtune.tasks.chest.xray import PARTS

SEED = 1  # of what is written: test questions do not follow the experiment's seed


def chosen(name: str, share: float, seed: int, what: str) -> bool:
    """Return whether an id is in a share of all; it follows from seed and id."""
    return int(sha256_text(f"{seed}/{what}/{name}")[:13], 16) / 16**13 < share


def write_texts(
    config: FilmTextsPart, results: Path, shard: str, cache: Path, log: Path
) -> list[Path]:
    """Filter the reports of a shard and make its conversations; return the tables.

    What a source is not good for gives an empty table. Every answer is kept in `cache`: a second
    run asks for what is missing. The experiment's seed decides nothing here.

    Args:
        config: The configuration, with `texts`.
        results: Folder of the experiment.
        shard: Name of the shard.
        cache: Folder of answers.
        log: File that a local server writes to.

    Raises:
        MedtuneError: See `run_step`.
    """
    texts, kinds = config.texts, {source.name: source.kind for source in config.sources}
    assert texts is not None
    films = read_shard(results, shard)
    kind = kinds[films[0].source]
    reports = report_items(films) if texts.filter and _wants_reports(kind) else []
    outputs = [table(results, f"{TEXTS}/{step}", shard) for step in (FILTER, TALK)]
    asks = bool(reports) or kind in TALKS  # else no server need start
    with served(texts.llm, log, results / MEDIA) if asks else nullcontext(texts.llm) as llm:
        run_step(llm, "filter", reports, cache, outputs[0], rejects(outputs[0]), SEED)
        talks = list(_talks(config, texts, results, shard, kind))
        step = TALKS.get(kind, "conversation")
        run_step(llm, step, talks, cache, outputs[1], rejects(outputs[1]), SEED)
    return outputs


def rejects(output: Path) -> Path:
    """Return the table of refused answers beside a table of texts."""
    return output.with_suffix(".rejects.parquet")


def _wants_reports(kind: str) -> bool:
    return "report_generation" in tasks_of(kind) or TALKS.get(kind) == "conversation_grounded"


def _talks(
    config: FilmTextsPart, texts: TextsConfig, results: Path, shard: str, kind: str
) -> Iterator[ConversationItem]:
    """Yield what is known of the films that get a conversation."""
    step = TALKS.get(kind)
    if step is None:
        return
    filtered = read_texts(results, FILTER, shard) if texts.filter else {}
    for film, _, geometry in read_stored(results, shard):
        name = f"{film.source}/{film.image_id}"
        if not chosen(name, texts.conversations.get(film.source, 1.0), SEED, "talk"):
            continue
        kept = filtered.get(report_key(film), {}).get("report")
        report = kept if texts.filter else unfiltered(film)
        boxes = tuple(
            NamedBox(name=region.name, box=geometry.to_frame(region.box))
            for region in film.regions
            if region.kind != "anatomy"
        )
        item = ConversationItem(
            id=name,
            source=film.source,
            report=None if step == "conversation_sentences" else report,
            labels=with_doubts(film.labels, read_labels(report or "")),
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
        TraceItem(
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
