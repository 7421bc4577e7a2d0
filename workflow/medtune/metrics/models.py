"""Scores of reports that need a model, from a local folder; nothing is downloaded.

    <models>/bertscore            distilbert-base-uncased, with `baseline.tsv` for figures as usual
    <models>/radcliq_bertscore    distilroberta-base, with `baseline.tsv`
    <models>/chexbert             config and tokenizer of bert-base-uncased, weights of CheXbert
    <models>/radgraph             the original RadGraph
    <models>/radgraph-xl          RadGraph-XL

A model whose folder or package is not there is not run, which is said with the reason and is never
a 0. A folder that is there and cannot be used is an error.
"""

from collections.abc import Callable, Sequence
from functools import cached_property, partial
from importlib.util import find_spec
from pathlib import Path

import numpy as np

from medtune.config.chest_scores import ChestScoresConfig
from medtune.metrics.bertscore import BASELINE, BertScore
from medtune.metrics.chexbert import Chexbert, compared, pair_f1
from medtune.metrics.radcliq import NOTHING, PERFECT, Features, radcliq
from medtune.metrics.radgraph import graph_f1, load_radgraph
from medtune.runtime.errors import ModelError

Pair = tuple[str, str]  # text, reference
Scorer = Callable[[Sequence[Pair]], list[float]]
Comparer = Callable[[Sequence[Pair]], list[list[int]]]
METRICS = ("bertscore", "radgraph", "chexbert", "radcliq", "radcliq_published")
PUBLISHED_CHARACTERS = 2048  # of a text, that the published system looked at


class NotRunError(ModelError):
    """A model or package is not there."""


class Models:
    """Scorers of a folder of models; a model that several scores need is loaded once.

    Args:
        config: Where the models are.
        references: All references of the data set, for the frequencies of canonical RadCliQ.
    """

    def __init__(self, config: ChestScoresConfig, references: Sequence[str] | None = None) -> None:
        self.config, self.references = config, references

    def folder(self, name: str) -> Path:
        """Return the folder of a model.

        Raises:
            NotRunError: There is none.
        """
        if self.config.models is None:
            raise NotRunError(
                "`evaluation.scores.models`", "is null: there are no models", "name a folder"
            )
        path = Path(self.config.models) / name
        if not path.is_dir():
            raise NotRunError(path, "does not exist", "put the model there to run this score")
        return path

    def scorer(self, metric: str) -> Scorer:
        """Return what scores (text, reference) pairs.

        `bertscore`: F1, rescaled if there is a baseline. `radgraph`: F1 `complete` of RadGraph-XL.
        `chexbert`: F1 of the 14 findings of a pair, 1 if neither text has one. `radcliq`,
        `radcliq_published`: lower is better (see `medtune.metrics.radcliq`).

        Raises:
            NotRunError: What it needs is not there.
            ModelError: What it needs cannot be used.
        """
        makers: dict[str, Callable[[], Scorer]] = {
            "bertscore": lambda: self._bertscore("bertscore", None).f1,
            "radgraph": lambda: self._radgraph("radgraph-xl", "complete"),
            "chexbert": self._pair_f1,
            "radcliq": self._canonical,
            "radcliq_published": self._published,
        }
        return makers[metric]()

    def _bertscore(self, name: str, references: Sequence[str] | None) -> BertScore:
        how = self.config
        return BertScore(
            self.folder(name),
            device=how.device,
            batch_size=how.batch_size,
            references=references,
        )

    def findings(self) -> Comparer:
        """Return what says which findings of (text, reference) pairs agree (see `compared`).

        Raises:
            NotRunError: What it needs is not there.
            ModelError: What it needs cannot be used.
        """
        return partial(compared, self._chexbert)

    def _pair_f1(self) -> Scorer:
        findings = self.findings()
        return lambda pairs: [
            pair_f1(text, found) for (text, _), found in zip(pairs, findings(pairs), strict=True)
        ]

    @cached_property
    def _chexbert(self) -> Chexbert:
        folder = self.folder("chexbert")
        return Chexbert(folder, self.config.device, self.config.batch_size)

    def _radgraph(self, name: str, level: str) -> Scorer:
        folder = self.folder(name)
        if find_spec("radgraph") is None:
            raise NotRunError("radgraph", "is not installed", "install radgraph==0.1.18")
        graphs = load_radgraph(folder, self.config.device)

        def score(pairs: Sequence[Pair]) -> list[float]:
            found = zip(graphs([t for t, _ in pairs]), graphs([r for _, r in pairs]), strict=True)
            return [graph_f1(answer, reference)[level] for answer, reference in found]

        return score

    def _canonical(self) -> Scorer:
        if self.references is None:
            raise NotRunError("radcliq", "needs all references", "give them")
        return self._radcliq("radgraph", self.references)

    def _published(self) -> Scorer:
        own = self._radcliq("radgraph-xl", None)
        return lambda pairs: own([(_as_published(t), _as_published(r)) for t, r in pairs])

    def _radcliq(self, graphs: str, references: Sequence[str] | None) -> Scorer:
        bert = self._bertscore("radcliq_bertscore", references)
        if bert.baseline is None:
            where = self.folder("radcliq_bertscore") / BASELINE
            raise ModelError(where, "does not exist", "put it there: RadCliQ needs it")
        radgraph, chexbert = self._radgraph(graphs, "radcliq"), self._chexbert

        def score(pairs: Sequence[Pair]) -> list[float]:
            features = (radgraph(pairs), bert.f1(pairs), _cosines(chexbert, pairs))
            return [radcliq(Features(*one)) for one in zip(*features, strict=True)]

        return score


def load_scorers(
    config: ChestScoresConfig, references: Sequence[str] | None = None
) -> tuple[dict[str, Scorer | Comparer], dict[str, str]]:
    """Return the scorers that can be run, and why the others are not run.

    That of `chexbert` tells findings, from which all its figures follow (see `Models.findings`).

    Args:
        config: Where the models are.
        references: All references of the data set.

    Raises:
        ModelError: A model that is there cannot be used.
    """
    models, reasons = Models(config, references), {}
    scorers: dict[str, Scorer | Comparer] = {}
    for metric in METRICS:
        try:
            found = models.findings() if metric == "chexbert" else models.scorer(metric)
            scorers[metric] = found
        except NotRunError as error:
            reasons[metric] = f"not run: {error.where} {error.found}"
    return scorers, reasons


def as_reward(metric: str, value: float) -> float:
    """Return a score as a reward, 0..1: RadCliQ from nothing right to all right, others cut off.

    Args:
        metric: One of `METRICS`.
        value: The score.
    """
    if metric.startswith("radcliq"):
        value = (NOTHING - value) / (NOTHING - PERFECT)
    return min(1.0, max(0.0, value))


def _as_published(text: str) -> str:
    return text[:PUBLISHED_CHARACTERS].lower()


def _cosines(model: Chexbert, pairs: Sequence[Pair]) -> list[float]:
    """Return the cosine of the vectors of both texts; 0 where one is empty."""
    said, true = (model.read([pair[side] for pair in pairs])[1] for side in (0, 1))
    norms = np.linalg.norm(said, axis=1) * np.linalg.norm(true, axis=1)
    found: list[float] = ((said * true).sum(axis=1) / np.where(norms > 0, norms, 1.0)).tolist()
    return found
