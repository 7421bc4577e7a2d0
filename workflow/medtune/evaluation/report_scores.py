"""Scores of reports by models of a local folder, kept so that a rerun scores nothing again."""

from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from medtune.config.chest_scores import ChestScoresConfig
from medtune.evaluation.cluster_bootstrap import Array, mean_of
from medtune.evaluation.corpus_metrics import CorpusMetric, mean_metric, not_run, text_of
from medtune.metrics.chexbert import F1_NAMES, counts, findings_f1, pair_f1
from medtune.metrics.models import METRICS, Pair, load_scorers
from medtune.metrics.text import tokens
from medtune.rewards.base import Judged
from medtune.rewards.reports import reference
from medtune.runtime.console import ProgressLine
from medtune.runtime.files import canonical_json, sha256, sha256_text
from medtune.runtime.journal import append, entries

TOGETHER = 256  # pairs after which scores are kept
# What the scores come from, beside the models.
SCORERS = Path(__file__).parents[1] / "metrics"
FIGURES = {"chexbert": ("chexbert", *(f"chexbert_{name}" for name in F1_NAMES))}
NO_WORDS = "no test report has words"
CODE = ("bertscore", "chexbert", "models", "radcliq", "radgraph")


def model_metrics(
    config: ChestScoresConfig, judged: Iterable[Judged], cache: Path | None
) -> list[CorpusMetric]:
    """Return the scores of reports that need a model, those of missing models as not run.

    Args:
        config: Where the models are.
        judged: Answers of all models to the questions for a report.
        cache: Folder in which scores are kept; None: they are not.

    Raises:
        ModelError: A model that is there cannot be used.
    """
    pairs = {_pair(one): None for one in judged if tokens(reference(one.sample))}
    references = sorted({true for _, true in pairs})
    scorers, reasons = load_scorers(config, references)
    found = [
        not_run(FIGURES.get(name, (name,)), reason.removeprefix("not run: "))
        for name, reason in reasons.items()
    ]
    if not scorers:
        return found
    origin = _origin(config, references)
    for name, scorer in scorers.items():
        keeper = _Kept(cache / f"{name}.jsonl" if cache else None, f"{origin}/{name}")
        missing = [pair for pair in pairs if keeper.key(pair) not in keeper.known]
        with ProgressLine(f"scores by {name}", len(missing)) as line:
            for start in range(0, len(missing), TOGETHER):
                share = missing[start : start + TOGETHER]
                keeper.add(share, scorer(share))
                for _ in share:
                    line.advance()
        found.append(_family(name, {pair: keeper.known[keeper.key(pair)] for pair in pairs}))
    return sorted(found, key=lambda family: METRICS.index(family.names[0]))


def _family(name: str, scores: Mapping[Pair, Any]) -> CorpusMetric:
    if name == "chexbert":
        return CorpusMetric(FIGURES[name], _chexbert_figures, partial(_findings, scores), NO_WORDS)
    return mean_metric(name, lambda _, one: scores.get(_pair(one)), NO_WORDS)


def _findings(
    scores: Mapping[Pair, Sequence[int]], _: str, answers: Sequence[Judged]
) -> Array | None:
    """Return counts of the 14 findings, the pair's F1, and 1."""
    pair = _pair(answers[0])
    found = scores.get(pair)
    return None if found is None else np.array([*counts(found).flat, pair_f1(pair[0], found), 1.0])


def _chexbert_figures(sums: Array) -> Array:
    by_finding = sums[..., :-2].reshape(*sums.shape[:-1], -1, 3)
    return np.concatenate([mean_of(sums[..., -2:]), findings_f1(by_finding)], axis=-1)


def _pair(judged: Judged) -> Pair:
    return text_of(judged), reference(judged.sample)


class _Kept:
    """The scores that one metric has given, by the hash of what they come from."""

    def __init__(self, journal: Path | None, origin: str) -> None:
        self.journal, self.origin = journal, origin
        self.known: dict[str, Any] = {}
        for line in entries(journal) if journal else ():
            self.known |= line.entry["scores"]

    def key(self, pair: Pair) -> str:
        return sha256_text(canonical_json([self.origin, *pair]))

    def add(self, pairs: Sequence[Pair], scores: Sequence[float | list[int]]) -> None:
        new = {self.key(pair): score for pair, score in zip(pairs, scores, strict=True)}
        self.known |= new
        if self.journal:
            append(self.journal, {"scores": new})


def _origin(config: ChestScoresConfig, references: Sequence[str]) -> str:
    """Return a hash of models, code and references: a score of other ones is another score."""
    folder = Path(config.models or "")
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    models = {str(path.relative_to(folder)): sha256(path) for path in files}
    code = [sha256(SCORERS / f"{name}.py") for name in CODE]
    packages = [version(name) for name in ("torch", "transformers")]
    return sha256_text(canonical_json([models, code, packages, references]))
