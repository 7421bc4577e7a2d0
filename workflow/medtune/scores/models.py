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
from functools import cached_property
from importlib.util import find_spec
from pathlib import Path

import numpy as np

from medtune.errors import ModelError
from medtune.scores.bertscore import BASELINE, BertScore
from medtune.scores.chexbert import Chexbert
from medtune.scores.radcliq import NOTHING, PERFECT, Features, radcliq
from medtune.scores.radgraph import graph_f1, load_radgraph
from medtune.sections.chest_scores import ChestScoresConfig

Pair = tuple[str, str]  # text, reference
Scorer = Callable[[Sequence[Pair]], list[float]]
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
        `radcliq_published`: lower is better (see `medtune.scores.radcliq`).

        Raises:
            NotRunError: What it needs is not there.
            ModelError: What it needs cannot be used.
        """
        makers: dict[str, Callable[[], Scorer]] = {
            "bertscore": lambda: self._bertscore("bertscore", None).f1,
            "radgraph": lambda: self._radgraph("radgraph-xl", "complete"),
            "chexbert": lambda: _findings(self._chexbert),
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
) -> tuple[dict[str, Scorer], dict[str, str]]:
    """Return the scorers that can be run, and why the others are not run.

    Args:
        config: Where the models are.
        references: All references of the data set.

    Raises:
        ModelError: A model that is there cannot be used.
    """
    models, scorers, reasons = Models(config, references), {}, {}
    for metric in METRICS:
        try:
            scorers[metric] = models.scorer(metric)
        except NotRunError as error:
            reasons[metric] = f"not run: {error.where} {error.found}"
    return scorers, reasons


def measure_reports(
    pairs: Sequence[Pair], scorers: dict[str, Scorer]
) -> list[dict[str, float | None]]:
    """Return all scores of every pair; None for those that are not run."""
    columns = {name: scorer(pairs) for name, scorer in scorers.items()}
    return [
        {name: columns[name][index] if name in columns else None for name in METRICS}
        for index in range(len(pairs))
    ]


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


def _findings(model: Chexbert) -> Scorer:
    def score(pairs: Sequence[Pair]) -> list[float]:
        said, true = (model.read([pair[side] for pair in pairs])[0] for side in (0, 1))
        shared, whole = (said & true).sum(axis=1), said.sum(axis=1) + true.sum(axis=1)
        values = np.where(whole > 0, 2 * shared / np.maximum(1, whole), 1.0)
        return [
            float(value) if text.strip() else 0.0
            for value, (text, _) in zip(values, pairs, strict=True)
        ]

    return score


def _cosines(model: Chexbert, pairs: Sequence[Pair]) -> list[float]:
    """Return the cosine of the vectors of both texts; 0 where one is empty."""
    said, true = (model.read([pair[side] for pair in pairs])[1] for side in (0, 1))
    norms = np.linalg.norm(said, axis=1) * np.linalg.norm(true, axis=1)
    found: list[float] = ((said * true).sum(axis=1) / np.where(norms > 0, norms, 1.0)).tolist()
    return found
