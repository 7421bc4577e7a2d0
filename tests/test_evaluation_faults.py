"""Faults of published evaluations that this one must not have."""

from pathlib import Path

import pytest
from chest_films import film, normal, samples
from evaluated import STAGE, evaluate, rows_of

from medtune.config.data import TaskConfig
from medtune.config.evaluation import AnswersConfig
from medtune.config.stages import PredictStage
from medtune.config.training import ModelConfig
from medtune.evaluation.corpus import missing
from medtune.evaluation.predict import questions
from medtune.evaluation.predictions import read_predictions
from medtune.models.coordinate_format import COORDINATE_FORMATS
from medtune.records.sample import iterate, load_split, write_dataset
from medtune.runtime.errors import DataError
from medtune.runtime.files import read_json, write_manifest
from medtune.runtime.tables import read_rows, write_rows
from medtune.tasks import get_task

CHEST = STAGE.model_copy(update={"task": TaskConfig(name="chest_xray")})
TASK = get_task(CHEST.task)
FAMILY = "qwen3_vl"


@pytest.fixture(scope="module")
def dataset(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("faults") / "datasets"
    folder.mkdir()
    films = [(film(n), split) for n, split in enumerate(["train", "val", *["test"] * 3])]
    films += [(normal(100 + n), "test") for n in range(2)]
    write_dataset([one for each, split in films for one in samples(each, split)], folder)
    files = [path for path in folder.rglob("*") if path.is_file()]
    write_manifest(folder, files, {}, stage="annotate")
    return folder


@pytest.fixture(scope="module")
def asked(dataset):
    return list(iterate(load_split(dataset, "test")))


def gold(sample):
    return TASK.target(sample, COORDINATE_FORMATS[FAMILY])


def junk(sample):
    return "" if sample.id.endswith("n") else "I cannot say"


@pytest.fixture(scope="module")
def found(dataset, asked, tmp_path_factory):
    models = {"sft": rows_of(asked, gold, FAMILY), "base": rows_of(asked, junk, FAMILY)}
    return evaluate(dataset, tmp_path_factory.mktemp("found"), models, CHEST)


def test_every_figure_has_an_interval_and_every_stage_a_paired_test(found):
    """Not two of them alone."""
    for task, models in found["corpus"].items():
        for model, figures in models.items():
            for name, one in figures.items():
                if one and "not_run" not in one:
                    assert one["low"] <= one["mean"] <= one["high"], (task, model, name)
                    assert one["patients"] > 1, (task, model, name)
        compared = found["corpus_comparisons"][task]["sft - base"]
        both = (models["sft"], models["base"])
        shared = {n for n in models["sft"] if all(m[n] and "not_run" not in m[n] for m in both)}
        assert set(compared) == shared
        assert shared or "conversation" in task  # whose only figure needs a judge
        for name, one in compared.items():
            assert 0 < one["p"] <= one["p_holm"] <= 1, (task, name)


def test_what_was_not_run_is_said(found):
    said = missing(found["corpus"])
    f1 = [f"chexbert_{mean}_{labels}" for mean in ("macro", "micro") for labels in (14, 5)]
    models = ", ".join(["bertscore", "chexbert", *f1, "radcliq", "radcliq_published", "radgraph"])
    nobody = "`evaluation.scores.models` is null: there are no models"
    assert f"report_generation: not run: {models} ({nobody})" in said, said
    assert any(
        line.startswith("conversation: not run: conversation (`evaluation.j") for line in said
    )
    assert not any("gleu" in line for line in said)


def test_a_normal_film_counts_and_is_no_0(found):
    detection = found["corpus"]["abnormality_detection"]
    assert detection["sft"]["normal_specificity"]["mean"] == 1
    assert detection["sft"]["ap"]["mean"] == pytest.approx(1)
    assert detection["base"]["normal_specificity"]["mean"] == 0  # silence is no answer
    assert detection["base"]["ap"]["mean"] == 0


def test_an_answer_without_its_end_counts_as_it_is():
    """Nothing is asked again until it fits: that would choose among answers."""
    task = get_task(TaskConfig(name="chest_xray", chain_of_thought=True))
    [sample] = [one for one in samples(film(0)) if one.task == "report_generation"]
    said = task.target(sample, COORDINATE_FORMATS[FAMILY])
    assert task.measure(task.judge(said, sample, COORDINATE_FORMATS[FAMILY]))[
        "score"
    ] == pytest.approx(1)
    cut = said.removesuffix("</answer>")
    judged = task.judge(cut, sample, COORDINATE_FORMATS[FAMILY])
    assert judged.answer is None
    assert task.measure(judged)["score"] == 0


def test_a_question_is_answered_once(asked, dataset, tmp_path):
    stage = PredictStage(
        task=CHEST.task,
        model=ModelConfig(family=FAMILY, builder="tiny"),
        evaluation=AnswersConfig(samples=3),
    )
    greedy = questions(asked, "greedy", stage)
    assert [one.sample.id for one in greedy] == [sample.id for sample in asked]
    assert all(one.seeds == (None,) for one in greedy)
    assert all(len(set(one.seeds)) == 3 for one in questions(asked, "sampled", stage))
    twice = rows_of(asked, gold, FAMILY) + rows_of(asked[:1], gold, FAMILY)
    with pytest.raises(DataError, match="1 answers are given twice"):
        evaluate(dataset, tmp_path, {"sft": twice}, CHEST)


def test_two_models_of_one_name_do_not_overwrite_each_other(asked, tmp_path):
    folders = [tmp_path / where / "sft" for where in ("a", "b")]
    for folder in folders:
        write_rows(folder / "0000.parquet", rows_of(asked, gold, FAMILY))
    assert set(read_predictions(folders[:1])) == {"sft"}
    with pytest.raises(DataError, match="bears the same name"):
        read_predictions(folders)


def test_scores_know_what_they_were_made_with(dataset, asked, tmp_path):
    evaluate(dataset, tmp_path, {"sft": rows_of(asked, gold, FAMILY)}, CHEST)
    manifest = read_json(tmp_path / "eval/metrics.manifest.json")
    assert manifest["config"]["evaluation"]["resamples"] == CHEST.evaluation.resamples
    assert {"commit", "code", "config", "files", "parents", "versions"} <= manifest.keys()
    assert any("datasets" in parent for parent in manifest["parents"])
    ids = {
        (row["model"], row["id"], row["text"]) for row in read_rows(tmp_path / "eval/cases.parquet")
    }
    assert {("sft", sample.id, gold(sample)) for sample in asked} <= ids  # item by item
