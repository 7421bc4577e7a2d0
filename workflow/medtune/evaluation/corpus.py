"""Figures of the whole test split by task, and how the stages differ in them.

Beside the means over answers that every score has (`models` of `metrics.json`), these are what
reports and boxes are compared by elsewhere: they are made from sums over the data set. A figure
that was not run says why, and is never 0.
"""

from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from medtune.config.stages import ScoreStage
from medtune.evaluation.cluster_bootstrap import Array, Sums, dumped, pooled, pooled_changes
from medtune.evaluation.corpus_metrics import CorpusMetric, corpus_metrics
from medtune.evaluation.statistics import Change, correct
from medtune.records.sample import Sample
from medtune.rewards.base import Judged

Row = Mapping[str, Any]
# Model -> mode -> question -> its answers.
Answers = Mapping[str, Mapping[str, Mapping[str, Sequence[Judged]]]]
NOT_RUN = "not_run"


def answers_of(
    tables: Mapping[str, Iterable[Row]], judge: Callable[[Row], Judged], task: str
) -> Answers:
    """Return the greedy and sampled answers of all models to the questions of a task."""
    found: Any = defaultdict(lambda: defaultdict(lambda: defaultdict(list)))
    for model, rows in tables.items():
        for row in rows:
            judged = judge(row)
            if judged.sample.task == task:
                found[model][row["mode"]][row["id"]].append(judged)
    return {model: dict(modes) for model, modes in found.items()}


def corpus(
    stage: ScoreStage,
    samples: Collection[Sample],
    tables: Mapping[str, Sequence[Row]],
    judge: Callable[[Row], Judged],
    pairs: Iterable[tuple[str, str, str]],
    further: Mapping[str, Sequence[CorpusMetric]],
) -> dict[str, Any]:
    """Return the figures of every chest task, with intervals and paired differences.

    Args:
        stage: The configuration.
        samples: The test split.
        tables: The answers of each model.
        judge: Puts an answer in front of its truth.
        pairs: (better, worse, mode) of the comparisons; those of greedy answers are made.
        further: By task, families that a model or a judge has scored.

    Returns:
        `corpus`: task -> model -> figure -> estimate, None (no figure, as the F1 of a label that
        is nowhere), or {"not_run": reason}; where the questions of a task are of several sources,
        also `task/source` -> the same over those of a source (CIDEr-D and RadCliQ weigh words by
        all references of the task, as for the whole). `corpus_comparisons`: task -> comparison ->
        figure -> change, where both were run; p-values are corrected for the number of all of them.
    """
    by_task = defaultdict(list)
    for sample in samples:
        by_task[sample.task].append(sample)
    own, compared, changes = {}, {}, []
    for task, asked in by_task.items():
        chosen = [*corpus_metrics(task, asked), *further.get(task, ())]
        if not chosen:
            continue
        answers = answers_of(tables, judge, task)
        pool = _Pool(stage, asked, answers)
        own[task] = {model: pool.figures(chosen, model) for model in answers}
        for source, ids in _sources(asked).items():
            own[f"{task}/{source}"] = {m: pool.figures(chosen, m, ids) for m in answers}
        compared[task] = {
            f"{better} - {worse}": pool.changes(chosen, better, worse)
            for better, worse, mode in pairs
            if mode == "greedy" and {better, worse} <= answers.keys()
        }
        changes += [one for pair in compared[task].values() for one in pair.values()]
    correct(changes)
    told = {
        task: {
            pair: {name: one.model_dump() for name, one in found.items()}
            for pair, found in p.items()
        }
        for task, p in compared.items()
    }
    return {"corpus": own, "corpus_comparisons": told}


def _sources(samples: Iterable[Sample]) -> dict[str, set[str]]:
    """Return the questions of each source, if there are several."""
    found = defaultdict(set)
    for sample in samples:
        found[sample.source].add(sample.id)
    return dict(sorted(found.items())) if len(found) > 1 else {}


def missing(found: Mapping[str, Mapping[str, Mapping[str, Any]]]) -> list[str]:
    """Return a line for each reason why figures of whole tasks, but of labels, have no model."""
    lines = []
    for task, models in found.items():
        if "/" in task:
            continue
        reasons = defaultdict(list)
        for name in (one for one in next(iter(models.values()), {}) if " " not in one):
            own = {(figures[name] or {}).get(NOT_RUN) for figures in models.values()}
            if len(own) == 1 and None not in own:
                reasons[own.pop()].append(name)
        lines += [f"{task}: not run: {', '.join(n)} ({why})" for why, n in reasons.items()]
    return lines


class _Pool:
    """The answers to one task, summed by patient."""

    def __init__(self, stage: ScoreStage, samples: Sequence[Sample], answers: Answers) -> None:
        self.stage, self.answers = stage, answers
        names = sorted({sample.patient_id for sample in samples})
        index = {name: row for row, name in enumerate(names)}
        self.row = {sample.id: index[sample.patient_id] for sample in samples}
        self.patients = len(names)
        self._kept: dict[tuple[CorpusMetric, str], dict[str, Array]] = {}

    def figures(
        self, chosen: Iterable[CorpusMetric], model: str, only: Collection[str] | None = None
    ) -> dict[str, Any]:
        """Return the figures of a model, over all or some of the questions."""
        found: dict[str, Any] = {}
        for family in chosen:
            sums = self._sums(family, model, only)
            if sums is None:
                found |= {name: {NOT_RUN: family.absent} for name in family.names}
                continue
            config, seed = self.stage.evaluation, self.stage.seed
            own = dumped(family.names, pooled(sums, family.value, config, seed))
            told = (family.details or {}).get(model, {}) if only is None else {}  # of all questions
            found |= {name: one and one | told for name, one in own.items()}
        return found

    def changes(self, chosen: Iterable[CorpusMetric], better: str, worse: str) -> dict[str, Change]:
        """Return the differences of two models, over the questions that both have figures of."""
        found: dict[str, Change] = {}
        for family in chosen:
            # A judge may have failed one of both.
            both = self._added(family, better).keys() & self._added(family, worse).keys()
            first, second = (self._sums(family, one, both) for one in (better, worse))
            if first is None or second is None:
                continue
            config, seed = self.stage.evaluation, self.stage.seed
            own = pooled_changes(first, second, family.value, config, seed)
            named = zip(family.names, own, strict=True)
            found |= {name: one for name, one in named if one is not None}
        return found

    def _added(self, family: CorpusMetric, model: str) -> dict[str, Array]:
        """Return what a model's answers add to the sums, by question; texts are looked at once."""
        key = (family, model)
        if key not in self._kept:
            answers = self.answers[model].get(family.mode, {})
            added = {name: family.add(model, judged) for name, judged in answers.items()}
            self._kept[key] = {name: one for name, one in added.items() if one is not None}
        return self._kept[key]

    def _sums(
        self, family: CorpusMetric, model: str, only: Collection[str] | None = None
    ) -> Sums | None:
        """Return what a model's answers add up to, None without any."""
        added = self._added(family, model)
        ids = [name for name in added if only is None or name in only]
        if not ids:
            return None
        each, owner = np.stack([added[name] for name in ids]), [self.row[name] for name in ids]
        rows, held = np.zeros((self.patients, each.shape[1])), np.zeros(self.patients)
        np.add.at(rows, owner, each)
        np.add.at(held, owner, 1)
        return Sums(rows, held)
