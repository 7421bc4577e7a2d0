"""Signs of collapse: each planted one is found, a healthy run shows none, a run says so once."""

import pytest
from training_stages import TASK, grpo_stage, history

import medtune.training  # noqa: F401  (declares operators before transformers is imported)
from medtune.rewards.base import Term
from medtune.training.collapse import WINDOW, blind_gain, collapses
from medtune.training.grpo import train_grpo
from medtune.training.grpo_rewards import differing

HEALTHY = {
    "entropy": 0.6,
    "frac_reward_zero_std": 0.1,
    "answers/distinct": 0.9,
    "completions/clipped_ratio": 0.0,
    "completions/mean_length": 21.0,
    "grad_norm": 0.05,
}


def log(**planted) -> list[dict]:
    """Entries every 10 steps; in the last ten of 20 the planted values hold."""
    names = {"clipped": "completions/clipped_ratio", "length": "completions/mean_length"}
    planted = {names.get(key, key.replace("__", "/")): value for key, value in planted.items()}
    entries = [{"step": 10 * n, **HEALTHY, **(planted if n > 10 else {})} for n in range(1, 21)]
    return [*entries, {"step": 200, "result": True}]


@pytest.mark.parametrize(
    ("planted", "said"),
    [
        ({"entropy": 0.05}, "entropy per token fell from 0.6 to 0.05"),
        ({"entropy": 2.0}, "entropy per token rose from 0.6 to 2"),
        ({"frac_reward_zero_std": 1.0}, "all answers earn the same in 100% of groups"),
        ({"answers__distinct": 0.0}, "the answers to one prompt are all the same"),
        ({"clipped": 0.95}, "95% of answers are cut off"),
        ({"length": 3.0}, "answers shrank from 21 to 3 tokens"),
        ({"length": 300.0}, "answers grew from 21 to 300 tokens"),
        ({"grad_norm": 3.0}, "the gradient grew from 0.05 to 3"),
    ],
)
def test_each_collapse_is_found_from_its_first_step(planted, said):
    [finding] = collapses(log(**planted))
    assert said in finding.text
    assert (finding.since, finding.step) == (110, 110 + 10 * (WINDOW - 1))


def test_a_passing_sign_is_none():
    entries = log()
    for entry in entries[12 : 12 + WINDOW - 1]:
        entry |= {"entropy": 0.0, "answers/distinct": 0.0, "completions/clipped_ratio": 1.0}
    assert collapses(entries) == []
    entries[12 + WINDOW - 1]["entropy"] = 0.0
    assert [finding.since for finding in collapses(entries)] == [130]


def test_a_log_without_the_numbers_shows_nothing():
    assert collapses([]) == []
    assert collapses([{"step": n, "loss": 0.0, "entropy": None} for n in range(50)]) == []
    still = [{"step": n, "grad_norm": float(n > 9)} for n in range(50)]  # nothing to learn at first
    assert collapses(still) == []


def test_a_gain_in_training_that_held_out_patients_do_not_show():
    rising = [{"step": n, "reward": 0.5 + 0.02 * n} for n in range(12)]
    lost = {"mean": -0.1, "low": -0.2, "high": -0.05}
    assert "rose from 0.520 to 0.700" in blind_gain(rising, lost)
    assert "fell by 0.100" in blind_gain(rising, lost)
    assert blind_gain(rising, lost | {"high": 0.01}) is None
    assert blind_gain(rising, lost | {"high": None}) is None
    assert blind_gain(rising, None) is None
    assert blind_gain(rising[::-1], lost) is None
    assert blind_gain([], lost) is None


def test_how_far_answers_differ():
    assert [differing(list(texts)) for texts in ("aaaa", "aabb", "abcd", "a")] == [0, 1 / 3, 1, 0]


SHORT = {"steps": 6, "learning_rate": 1e-5, "log_completions_steps": 0, "batch_size": 4}


def test_a_healthy_run_is_silent_and_a_frozen_one_says_so_once(
    trained, family, dataset, tmp_path, capsys, monkeypatch
):
    # The reward pays what even a model that has hardly learned can do more or less of.
    variety = Term("variety", 1.0, lambda judged: min(1.0, len(set(judged.text)) / 100))
    monkeypatch.setattr(type(TASK), "terms", lambda *_: [variety])
    train_grpo(grpo_stage(family, **SHORT), trained, dataset, tmp_path / "healthy")
    entries = [e for e in history(tmp_path / "healthy") if "entropy" in e]
    assert len(entries) == 6 > WINDOW
    assert entries[0]["answers/distinct"] > 0.5
    assert collapses(entries) == []
    assert "warning" not in capsys.readouterr().err

    # Nearly greedy sampling: the policy says one thing, and there is nothing to compare.
    stage = grpo_stage(family, **SHORT, temperature=1e-4)
    train_grpo(stage, trained, dataset, tmp_path / "frozen")
    said = capsys.readouterr().err
    assert said.count("the answers to one prompt are all the same") == 1
    assert said.count("warning: since step 1, all answers earn the same") == 1
    assert {f.step for f in collapses(history(tmp_path / "frozen"))} == {WINDOW}
