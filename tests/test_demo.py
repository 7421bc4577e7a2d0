"""The demo's claims at full size: `pytest -m demo`, about 20 minutes on two cores."""

import pytest
from conftest import REPOSITORY
from small_experiment import snakemake

from medtune.evaluation.blind_answers import MOST_COMMON
from medtune.reporting.reward_hacking import gaming, warnings
from medtune.runtime.files import read_json


@pytest.mark.demo
def test_the_demo_learns_what_it_claims(tmp_path):
    run = snakemake(tmp_path, config=REPOSITORY / "config/config.yaml")
    assert run.returncode == 0, run.stdout + run.stderr
    metrics = read_json(tmp_path / "results/demo/eval/metrics.json")
    greedy = {name: modes["greedy"] for name, modes in metrics["models"].items()}
    assert greedy["sft"]["iou"]["low"] >= 2 * greedy["constant"]["iou"]["mean"]
    assert greedy["sft"]["peak_error"]["high"] <= 0.5 * greedy["constant"]["peak_error"]["mean"]
    gain = metrics["comparisons"]["grpo - sft, sampled"]["reward"]
    assert gain["low"] > 0
    assert metrics["comparisons"]["grpo - sft, greedy"]["iou"]["high"] >= 0
    for model in ("sft", "grpo"):
        shuffled = metrics["models"][model]["shuffled"]["iou"]
        assert shuffled["mean"] <= greedy["constant"]["iou"]["high"]
    assert gaming(metrics)["verdict"].startswith("No answer")
    assert warnings(read_json(tmp_path / "results/demo/grpo/history.json"), metrics) == []
    for model in ("sft", "grpo"):  # "no tumor" is right for one patient in nine
        blind = {
            n for n, share in metrics["degenerate_answer_rates"][model].items() if share > 0.01
        }
        assert blind <= {"no tumor", MOST_COMMON}
