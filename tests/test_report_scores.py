"""Scores of reports by models, in the figures of an experiment."""

from pathlib import Path

import numpy as np
import pytest
from chest_films import film, samples
from sklearn.metrics import f1_score
from test_corpus import CHEST, SAID
from test_scores_models import write_bertscore, write_chexbert

from medtune.config.chest_scores import ChestScoresConfig
from medtune.evaluation import report_scores
from medtune.evaluation.corpus import corpus
from medtune.evaluation.report_scores import model_metrics
from medtune.metrics.bertscore import BertScore
from medtune.metrics.chexbert import FINDINGS, FIVE, Chexbert
from medtune.metrics.models import METRICS, Models
from medtune.reporting.corpus import NAMES
from medtune.rewards.base import Judged
from medtune.tasks.chest.part import ChestAnswer

CHEXBERT = report_scores.FIGURES["chexbert"]
ASKED = [one for n in range(5) for one in samples(film(n)) if one.task == "report_generation"]
# One answer is given twice, one is invalid.
JUDGED = [
    Judged("-", None if n == 3 else ChestAnswer(text=SAID[min(n, 1)]), None, one)
    for n, one in enumerate(ASKED)
]


@pytest.fixture(scope="module")
def models(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    write_bertscore(folder / "bertscore")
    return folder


def figures(families) -> dict:
    rows = {"sft": [{"id": one.sample.id, "mode": "greedy", "it": one} for one in JUDGED]}
    further = {"report_generation": families}
    found = corpus(CHEST, ASKED, rows, lambda row: row["it"], (), further)
    return found["corpus"]["report_generation"]["sft"]


def test_what_is_there_is_run_and_the_rest_says_why_not(models, tmp_path):
    config = ChestScoresConfig(models=str(models))
    found = figures(model_metrics(config, JUDGED, tmp_path / "cache"))
    pairs = [(one.answer.text if one.answer else "", one.sample.truth["report"]) for one in JUDGED]
    expected = BertScore(models / "bertscore").f1(pairs)
    assert expected[3] == 0
    assert found["bertscore"]["mean"] == pytest.approx(np.mean(expected), abs=1e-5)
    assert found["bertscore"]["n"] == found["bertscore"]["patients"] == 5
    assert found["bertscore"]["low"] < found["bertscore"]["high"]
    for name in {*METRICS, *CHEXBERT} - {"bertscore"}:
        assert "does not exist" in found[name]["not_run"], name
    assert [name for name in found if name in METRICS] == list(METRICS)  # both RadCliQ, together


def test_chexbert_is_of_the_data_set(tmp_path):
    write_chexbert(tmp_path / "m/chexbert")
    config = ChestScoresConfig(models=str(tmp_path / "m"))
    for _ in range(2):  # the second from what was kept
        found = figures(model_metrics(config, JUDGED, tmp_path / "cache"))
    texts = [one.answer.text if one.answer else "" for one in JUDGED]
    references = [one.sample.truth["report"] for one in JUDGED]
    said, true = (Chexbert(tmp_path / "m/chexbert").read(of)[0] for of in (texts, references))
    assert 0 < (said & true).sum() < (said | true).sum()
    for name, columns in (("14", range(14)), ("5", [FINDINGS.index(one) for one in FIVE])):
        for kind in ("micro", "macro"):
            of = (true[:, columns], said[:, columns])
            expected = f1_score(*of, average=kind, zero_division=0)
            assert found[f"chexbert_{kind}_{name}"]["mean"] == pytest.approx(expected)
    pairs = list(zip(texts, references, strict=True))
    assert found["chexbert"]["mean"] == pytest.approx(
        np.mean(Models(config).scorer("chexbert")(pairs))
    )
    assert found["chexbert_micro_14"]["low"] < found["chexbert_micro_14"]["high"]
    assert set(found) & set(CHEXBERT) == set(CHEXBERT) < set(NAMES)


def test_without_models_nothing_is_0():
    found = figures(model_metrics(ChestScoresConfig(), JUDGED, None))
    reason = {"not_run": "`evaluation.scores.models` is null: there are no models"}
    assert all(found[name] == reason for name in {*METRICS, *CHEXBERT})


def test_a_pair_is_scored_once_until_something_changes(models, tmp_path, monkeypatch):
    asked = []

    def load(config, references):
        def score(pairs):
            asked.extend(pairs)
            return [0.5] * len(pairs)

        return {"bertscore": score}, {}

    monkeypatch.setattr(report_scores, "load_scorers", load)
    monkeypatch.setattr(report_scores, "TOGETHER", 2)
    config, cache = ChestScoresConfig(models=str(models)), tmp_path / "cache"

    def scored() -> int:
        asked.clear()
        families = model_metrics(config, JUDGED, cache)
        assert figures(families)["bertscore"]["mean"] == 0.5
        return len(asked)

    assert scored() == 3  # the reports of all films are one: three texts
    assert scored() == 0
    journal = cache / "bertscore.jsonl"
    journal.write_bytes(journal.read_bytes()[:-5])  # a torn line: the last share is asked for
    assert scored() == 1
    (models / "bertscore/baseline.tsv").write_text("LAYER,P,R,F\n5,0,0,0")
    assert scored() == 3
