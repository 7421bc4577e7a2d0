"""A training that goes wrong in one of two processes ends in both, within seconds."""

import re
import time
from pathlib import Path

import pytest
from conftest import long
from test_processes import PLANTED, launch, qwen3, run
from test_resume import same
from training_stages import sft_stage


def run_with(fault: str, stage, base: Path, dataset: Path, output: Path) -> tuple[int, str, float]:
    """Run SFT with a planted fault; return exit status, what was said, and the seconds it took."""
    start = time.monotonic()
    done = launch([PLANTED, fault, "sft"], stage, base, dataset, output)
    return done.returncode, done.stderr, time.monotonic() - start


@qwen3
@pytest.mark.parametrize(
    ("fault", "said"),
    [
        ("nan", [r"step 1: (loss|grad_norm) is nan, expected a finite number"] * 2),
        pytest.param("nan_log", [r"step 2: own is nan, expected a finite number"] * 2, marks=long),
        ("error", [r"error: a sample: cannot be read"]),
    ],
)
def test_all_processes_end_where_one_fails(family, base, dataset, tmp_path, fault, said):
    status, text, seconds = run_with(fault, sft_stage(family), base, dataset, tmp_path / "sft")
    assert status != 0
    for pattern in set(said):
        assert len(re.findall(pattern, text)) == said.count(pattern), text
    assert not (tmp_path / "sft").exists()
    assert seconds < 180


@qwen3
def test_a_run_that_hangs_shows_where_and_ends(family, base, dataset, tmp_path):
    stage = sft_stage(family, step_timeout_minutes=0.15)
    status, text, seconds = run_with("hang", stage, base, dataset, tmp_path / "sft")
    assert status != 0
    assert "Timeout (0:00:09)!" in text
    assert "planted.py" in text  # where the hanging process stands
    assert seconds < 180


@qwen3
def test_a_request_to_one_process_stops_both_after_the_same_step(family, base, dataset, tmp_path):
    stage = sft_stage(family, epochs=1.5, eval_steps=2, eval_generation_samples=2)
    run("sft", stage, base, dataset, tmp_path / "whole/sft")
    folder = tmp_path / "cut/sft"
    status, text, seconds = run_with("stop", stage, base, dataset, folder)
    assert status != 0
    step = re.search(r"asked to stop: saving step (\d+)", text)[1]
    assert "interrupted" in text
    assert seconds < 180
    assert f"going on after step {step}," in run("sft", stage, base, dataset, folder)
    same(tmp_path / "whole/sft", folder)
