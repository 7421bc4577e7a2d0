"""Prompts are chosen by how hard they are for the model that GRPO starts from."""

from statistics import fmean

import pytest
from training_stages import TASK, grpo_stage, history

from medtune.config.rollouts import CurriculumConfig
from medtune.config.stages import DifficultyStage
from medtune.config.training import ScoringPassConfig
from medtune.records.sample import iterate, load_split
from medtune.rewards.base import Term
from medtune.runtime.errors import ConfigError, DataError
from medtune.runtime.files import read_json, sha256, sha256_text
from medtune.runtime.tables import read_rows, write_rows
from medtune.training.curriculum import choose_prompts, score_prompts
from medtune.training.grpo import train_grpo

CURRICULUM = CurriculumConfig(num_samples=3)


def table(rewards: list[float]) -> list[dict]:
    return [{"id": f"s/{n}", "reward": r, "deviation": 0.1} for n, r in enumerate(rewards)]


def test_prompts_that_teach_nothing_are_left_out():
    rows = table([0.0, 0.2, 0.71, 0.7, 1.0, 0.5])
    assert choose_prompts(rows, CURRICULUM, seed=1) == ["s/1", "s/3", "s/5"]
    with pytest.raises(DataError, match="widen the limits"):
        choose_prompts(table([0.0, 0.9]), CURRICULUM, seed=1)


def test_draws_prefer_the_center_and_follow_from_seed_and_id():
    rows = table([0.01 + 0.69 * n / 999 for n in range(1000)])
    config = CurriculumConfig(max_prompts=200, target_reward=0.3, target_std=0.1)
    chosen = choose_prompts(rows, config, seed=1)
    assert len(set(chosen)) == 200
    rewards = [row["reward"] for row in rows if row["id"] in set(chosen)]
    assert fmean(rewards) == pytest.approx(0.3, abs=0.03)
    within = sum(abs(reward - 0.3) < 0.1 for reward in rewards)
    assert 0.5 < within / 200 < 0.85  # 0.68 of a normal distribution
    again = choose_prompts(rows[::-1], config, seed=1)
    assert again == chosen[::-1]
    assert choose_prompts(rows, config, seed=2) != chosen
    fewer = choose_prompts(rows, config.model_copy(update={"max_prompts": 100}), seed=1)
    assert set(fewer) < set(chosen)


def stage(family) -> DifficultyStage:
    grpo = grpo_stage(family)
    own = {"curriculum": CURRICULUM, "max_completion_length": 24}
    shared = grpo.model_dump(include={"seed", "task", "model", "reward"})
    return DifficultyStage(**shared, grpo=ScoringPassConfig(**own))


def half(judged) -> float:
    """0.5 for some prompts, 0 for the others, whatever is answered."""
    return 0.5 * (int(sha256_text(judged.sample.id)[:8], 16) % 2)


def test_grpo_trains_on_the_chosen_prompts_alone(trained, family, dataset, tmp_path, monkeypatch):
    monkeypatch.setattr(type(TASK), "terms", lambda *_: [Term("half", 1.0, half)])
    difficulty = tmp_path / "difficulty.parquet"
    score_prompts(stage(family), trained, dataset, difficulty)
    rows = read_rows(difficulty)
    assert [row["id"] for row in rows] == load_split(dataset, "train")["id"][:]
    kept = {row["id"] for row in rows if row["reward"] == 0.5}
    assert 0 < len(kept) < len(rows)
    grpo = grpo_stage(family, curriculum=CURRICULUM, log_completions_steps=1, steps=4)
    train_grpo(grpo, trained, dataset, tmp_path / "grpo", difficulty)
    tables = sorted((tmp_path / "grpo/completions").glob("*"))
    assert {row["id"] for one in tables for row in read_rows(one)} <= kept
    assert history(tmp_path / "grpo")[0]["reward"] == 0.5
    parents = read_json(tmp_path / "grpo/manifest.json")["parents"]
    assert parents[str(difficulty)] == sha256(difficulty)
    with pytest.raises(ConfigError, match="give --difficulty"):
        train_grpo(grpo, trained, dataset, tmp_path / "other")
    write_rows(tmp_path / "foreign.parquet", rows[1:])
    with pytest.raises(DataError, match="not of this training split"):
        train_grpo(grpo, trained, dataset, tmp_path / "other", tmp_path / "foreign.parquet")


def test_the_scoring_pass_is_repeatable_and_tells_answers_apart(trained, family, dataset, tmp_path):
    files = [tmp_path / f"{name}.parquet" for name in "ab"]
    with pytest.MonkeyPatch.context() as patch:
        length = Term("length", 1.0, lambda judged: min(1.0, len(judged.text) / 200))
        patch.setattr(type(TASK), "terms", lambda *_: [length])
        for file in files:
            score_prompts(stage(family), trained, dataset, file)
    assert sha256(files[0]) == sha256(files[1])
    assert any(row["deviation"] > 0 for row in read_rows(files[0]))
    assert len(list(iterate(load_split(dataset, "train")))) == len(read_rows(files[0]))
