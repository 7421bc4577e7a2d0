"""GRPO answers held-out prompts while it trains; what it keeps and when it ends: `test_resume`."""

from pathlib import Path

import pytest
from conftest import one_family
from training_stages import TASK, changed_dataset, grpo_stage, history, model_config, weights

from medtune.config.stages import GrpoStage
from medtune.models.coordinate_format import COORDINATE_FORMATS
from medtune.models.generate import generate
from medtune.models.loading import load_model, load_processor
from medtune.records.sample import Turn, iterate, load_split
from medtune.runtime.files import read_json
from medtune.training.batches import SftCollator
from medtune.training.grpo import engine_settings, prepare_grpo, train_grpo
from medtune.training.validation import ValidationGenerations

SHORT = {"max_completion_length": 24, "learning_rate": 1e-4}


def evaluated(folder: Path) -> list[dict]:
    return [entry for entry in history(folder) if "eval_reward" in entry]


def own_answers(model_folder: Path, family: str, dataset: Path) -> ValidationGenerations:
    collator = SftCollator(load_processor(model_folder), TASK, COORDINATE_FORMATS[family], dataset)
    samples = list(iterate(load_split(dataset, "val")))
    return ValidationGenerations(collator, samples, TASK.terms("default", {}), batch_size=1)


def test_the_logged_figures_are_those_of_the_model_that_is_kept(trained, family, dataset, tmp_path):
    """Greedy answers as evaluation generates them, one by one, from the folder that was written."""
    stage = grpo_stage(family, **SHORT, steps=3, eval_steps=2)
    train_grpo(stage, trained, dataset, tmp_path / "grpo")
    log = evaluated(tmp_path / "grpo")
    assert [entry["step"] for entry in log] == [2, 3]
    step = read_json(tmp_path / "grpo/manifest.json")["step"]
    logged = next(entry for entry in log if entry["step"] == step)
    answers = own_answers(tmp_path / "grpo", family, dataset)
    model = load_model(tmp_path / "grpo", model_config(family))
    questions = [answers.collator.question(sample) for sample in answers.samples]
    processor = answers.collator.processor
    texts = [generate(model, processor, [one], 24)[0]["text"] for one in questions]
    figures = answers.worth(texts)
    assert {"eval_reward", "eval_terms/iou", "eval_iou", "eval_valid"} <= set(figures)
    for name, value in figures.items():
        assert logged[name] == pytest.approx(value, abs=1e-6), name
    assert 0 <= logged["eval_sampled_reward"] <= 1


def variety(family: str, folder: Path, **changes) -> GrpoStage:
    """A stage whose reward tells any two texts apart that hold different characters."""
    file = folder / "terms.py"
    file.write_text(
        "def variety(judged):\n    return hash_of(judged.text)\n\n\n"
        "def hash_of(text):\n    return sum(map(ord, text)) % 997 / 997\n"
    )
    stage = grpo_stage(family, **SHORT, **changes)
    reward = stage.reward.model_copy(update={"file": str(file), "weights": {"variety": 1000.0}})
    return stage.model_copy(update={"reward": reward})


@one_family
def test_sampled_answers_are_drawn_alike_and_greedy_ones_are_not_drawn(
    trained, family, dataset, tmp_path
):
    def figures(**changes) -> dict[str, float]:
        stage = variety(family, tmp_path, **changes)
        return prepare_grpo(stage, trained, dataset, tmp_path / "x", None)[0].held_out_figures()

    whole = figures()
    assert whole["eval_sampled_reward"] != whole["eval_reward"]
    assert figures(rollout_batch=4) == pytest.approx(whole, abs=1e-9)  # one prompt at a time
    assert figures(temperature=3.0)["eval_sampled_reward"] != whole["eval_sampled_reward"]
    assert figures(temperature=3.0)["eval_reward"] == whole["eval_reward"]
    cold = figures(temperature=1e-6)
    assert cold["eval_sampled_reward"] == pytest.approx(whole["eval_reward"], abs=1e-9)


@one_family
@pytest.mark.parametrize(
    "changes", [{}, {"num_iterations": 2, "freeze": ["vision", "projector"]}], ids=["", "twice"]
)
def test_validation_changes_nothing_of_the_training(trained, family, dataset, tmp_path, changes):
    """Also between two updates by the same rollouts, whose media and features it must leave."""
    for name, samples in (("with", 4), ("without", 0)):
        stage = variety(
            family, tmp_path, **changes, steps=5, logging_steps=2, eval_steps=1, keep_best=False,
            eval_generation_samples=samples,
        )  # fmt: skip
        train_grpo(stage, trained, dataset, tmp_path / name)
    one, other = weights(tmp_path / "with"), weights(tmp_path / "without")
    assert all(one[name].equal(value) for name, value in other.items())
    before = weights(trained)
    assert any(not before[name].equal(value) for name, value in one.items())
    plain = [entry for entry in history(tmp_path / "with") if "eval_reward" not in entry]
    assert plain == history(tmp_path / "without")
    assert len(evaluated(tmp_path / "with")) == 5


def test_without_validation_patients_the_last_step_is_kept(
    trained, family, dataset, tmp_path, capsys
):
    if family == "qwen3_vl":
        pytest.skip("one family tells")

    def to_test(sample, number, split):
        return sample.model_copy(update={"split": "test" if split == "val" else split})

    data = changed_dataset(dataset, tmp_path / "data", to_test)
    train_grpo(grpo_stage(family, **SHORT), trained, data, tmp_path / "grpo")
    assert "validation: not run, its split is empty" in capsys.readouterr().err
    assert evaluated(tmp_path / "grpo") == []
    assert read_json(tmp_path / "grpo/manifest.json")["step"] == 2


def test_an_engine_has_room_for_the_validation_prompts(trained, family, dataset, tmp_path):
    """A conversation in the validation split may be the longest of all."""

    def longer(sample, number, split):
        turns = (Turn(prompt="And where? " * 40, target="There. " * 40),)
        return sample.model_copy(update={"turns": turns}) if split == "val" else sample

    data = changed_dataset(dataset, tmp_path / "data", longer)
    processor, stage = load_processor(trained), grpo_stage(family)
    settings = [engine_settings(stage, processor, one) for one in (dataset, data)]
    assert settings[1].context > settings[0].context + 80
