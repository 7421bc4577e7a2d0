"""The account of a data set of films: what came in, what was left out and why, what fusion did.

Beside the data set: `exclusions.csv`, `fusion.csv` and `published.csv`. They hold counts and the
names of classes, and nothing of a report.
"""

import csv
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from medtune.config.films import WRITTEN, FilmTextsPart, tasks_of
from medtune.records.film import Film
from medtune.records.sample import SPLITS, Sample
from medtune.runtime.console import log
from medtune.runtime.errors import DataError
from medtune.runtime.files import atomic_path, read_json
from medtune.sources.chest.reports import speaks_of_priors
from medtune.tasks.chest.published_mix import PUBLISHED, MixEntry
from medtune.tasks.chest.samples import UNDECIDED, LeftOut

NOT_HERE = "not at hand"
NO_TEXTS = "films.texts is null"


@dataclass
class Fusion:
    """What the fusion did to a class of a source: films that show it, and boxes."""

    films_before: int = 0
    films_after: int = 0
    boxes_before: int = 0
    boxes_after: int = 0


@dataclass
class Account:
    """Counts of one data set.

    Attributes:
        samples: By (source, task, split).
        left_out: See `LeftOut`.
        fusion: By (source, class).
        reports: Reports that are learned, by source.
        priors: Those of them that speak of earlier films.
    """

    samples: Counter[tuple[str, str, str]] = field(default_factory=Counter)
    left_out: Counter[LeftOut] = field(default_factory=Counter)
    fusion: dict[tuple[str, str], Fusion] = field(default_factory=dict)
    reports: Counter[str] = field(default_factory=Counter)
    priors: Counter[str] = field(default_factory=Counter)

    def sampled(self, sample: Sample) -> None:
        """Count a sample."""
        self.samples[sample.source, sample.task, str(sample.split)] += 1

    def reported(self, film: Film, report: str | None) -> None:
        """Count a report that is learned."""
        if report:
            self.reports[film.source] += 1
            self.priors[film.source] += speaks_of_priors(report)

    def fused(self, film: Film, fused: Film) -> None:
        """Count what the fusion did to the boxes of a film that have a reader."""
        if fused is film:
            return
        names = {region.name for region in film.regions if region.reader is not None}
        for name in names:
            before = sum(region.name == name for region in film.regions)
            after = sum(region.name == name for region in fused.regions)
            counts = self.fusion.setdefault((film.source, name), Fusion())
            counts.films_before += 1
            counts.films_after += after > 0
            counts.boxes_before += before
            counts.boxes_after += after
            if not after:
                pair = LeftOut(film.source, "abnormality_grounding", "film and class", UNDECIDED)
                self.left_out[pair] += 1


def add_index(account: Account, summary: Path) -> None:
    """Add what the index of films left out (see `write_index`)."""
    for source, reasons in read_json(summary)["left_out"].items():
        for reason, count in reasons.items():
            unit = (
                reason.partition(" ")[0] if not reason.startswith("film or row") else "film or row"
            )
            account.left_out[LeftOut(source, "", unit, reason)] += count


def check_sources(account: Account, config: FilmTextsPart) -> None:
    """Check that every source gives samples.

    Raises:
        DataError: One gives none; what was left out of it is named.
    """
    given = {source for source, _, _ in account.samples}
    for source in config.sources:
        if source.name in given:
            continue
        reasons = sorted(
            f"{count} x {one.task + ': ' if one.task else ''}{one.reason}"
            for one, count in account.left_out.items()
            if one.source == source.name
        )
        tasks = ", ".join(sorted(tasks_of(source.kind))) or f"any task (`{source.kind}` has none)"
        raise DataError(
            f"source {source.name}",
            f"gives no sample of {tasks}: {'; '.join(reasons) or 'nothing was left out'}",
            "take it out of `films.sources`, or mend what keeps its films out",
        )


def write_account(account: Account, config: FilmTextsPart, folder: Path) -> None:
    """Write and print the tables of an account; see the module.

    Args:
        account: What was counted.
        config: The configuration.
        folder: The data set folder.
    """
    head = ("source", "task", "unit", "reason", "count")
    excluded = [(*key, count) for key, count in sorted(account.left_out.items())]
    _write(folder / "exclusions.csv", head, excluded)
    for source, task, unit, reason, count in excluded:
        log(f"left out: {source}{': ' + task if task else ''}: {count} x {unit}: {reason}")
    _write_fusion(account, folder / "fusion.csv")
    _write_published(account, config, folder / "published.csv")
    _warn(account, config)


def _write_fusion(account: Account, path: Path) -> None:
    if not account.fusion:
        return
    head = ("source", "class", "films_before", "films_after", "boxes_before", "boxes_after")
    rows = [
        (*key, one.films_before, one.films_after, one.boxes_before, one.boxes_after)
        for key, one in sorted(account.fusion.items())
    ]
    _write(path, head, rows)
    for source, name, *counts in rows:
        log("fusion: {}: {}: films {} -> {}, boxes {} -> {}".format(source, name, *counts))


def _write_published(account: Account, config: FilmTextsPart, path: Path) -> None:
    """Write what RadVLM's data holds beside what this data set holds, row by row."""
    head = ("task", "kind", "published_train", "weight", "published_test")
    rows = [_published(share, account, config) for share in PUBLISHED]
    _write(path, (*head, *SPLITS, "sources"), rows)
    total = sum(round(share.pairs * share.weight) for share in PUBLISHED)
    log(f"published pairs, {total:,} an epoch, beside what is here (train, val, test):")
    for task, kind, trained, weight, tested, *counts, sources in rows:
        shown = ", ".join(f"{count:,}" if count != "" else "-" for count in counts)
        log(f"  {task} {kind}: {trained:,} x {weight:.4g}, test {tested:,}; {shown} ({sources})")


def _published(
    share: MixEntry, account: Account, config: FilmTextsPart
) -> tuple[str | int | float, ...]:
    names = [source.name for source in config.sources if source.kind == share.source]
    why = NOT_HERE if not names else NO_TEXTS if _unwritten(share.task, config) else ""
    counts = [
        "" if why else sum(account.samples[name, share.task, split] for name in names)
        for split in SPLITS
    ]
    row = (share.task, share.source, share.pairs, round(share.weight, 6), share.tested)
    return (*row, *counts, why or " ".join(names))


def _unwritten(task: str, config: FilmTextsPart) -> bool:
    return task in WRITTEN and config.texts is None


def _warn(account: Account, config: FilmTextsPart) -> None:
    """Print what a reader must know before a model is trained on this."""
    for split in SPLITS:
        if not any(own == split for _, _, own in account.samples):
            log(f"warning: no sample is in `{split}`")
    given = {(source, task) for source, task, _ in account.samples}
    for source in config.sources:
        for task in sorted(tasks_of(source.kind, config.has_talks(source))):
            if (source.name, task) not in given:
                log(f"warning: {source.name} gives no sample of {task}: see exclusions.csv")
    filters = config.texts is not None and config.texts.filter
    for name, count in sorted(account.priors.items()):
        if count:
            remedy = "the filter left them" if filters else "`films.texts` with `filter` is off"
            log(
                f"warning: {name}: {count} of {account.reports[name]} reports speak of earlier "
                f"films, which teaches a model to make them up; {remedy}"
            )


def _write(path: Path, head: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    with atomic_path(path) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(head)
        writer.writerows(rows)
