"""Memory stays flat over hundreds of GRPO steps: `pytest -m soak`, about 2 minutes on 2 cores."""

import gc
from mmap import mmap

import numpy as np
import psutil
import pytest
from scipy.stats import theilslopes
from training_stages import TASK, grpo_stage, history
from transformers import TrainerCallback

from medtune.rewards.base import Term
from medtune.runtime.files import MANIFEST, sha256_text
from medtune.training.grpo import prepare_grpo
from medtune.training.run import run_training

STEPS, WARM, EVERY = 300, 100, 5
BOUND = 16.0  # KiB per step


def growth(steps: list[int], kib: list[float]) -> float:
    """KiB per step: the median of the slopes between all pairs, which single jumps do not move."""
    return float(theilslopes(kib, steps).slope)


def resident() -> float:
    """Resident memory of this process in KiB."""
    return psutil.Process().memory_info().rss / 1024


class Memory(TrainerCallback):
    def __init__(self):
        self.steps, self.kib = [], []

    def on_step_end(self, _, state, *__, **___):
        if state.global_step > WARM and state.global_step % EVERY == 0:
            self.steps.append(state.global_step)
            gc.collect()
            self.kib.append(resident())


def test_a_leak_is_found_in_noise_and_a_jump_is_none():
    steps = list(range(WARM, STEPS, EVERY))
    noise = np.random.default_rng(0).normal(0, 200, len(steps))
    assert growth(steps, noise) < BOUND
    assert growth(steps, noise + 500.0 * (np.array(steps) > 250)) < BOUND
    assert growth(steps, noise + 1.5 * BOUND * np.array(steps)) > BOUND


def test_a_list_kept_per_step_is_found_in_this_process():
    kept, steps, kib = [], [], []
    for step in range(40):
        kept.append(mmap(-1, 64 * 1024))  # not of the heap, where freed memory would be taken
        kept[-1].write(bytes(64 * 1024))
        steps.append(step)
        kib.append(resident())
    assert growth(steps, kib) == pytest.approx(64, rel=0.2)


def tied(judged) -> float:
    """A reward that makes some groups uninformative, so that others come in."""
    number = int(sha256_text(judged.sample.id)[:8], 16)
    return 0.5 if number % 2 else min(1.0, len(set(judged.text)) / 100)


@pytest.mark.soak
def test_memory_is_flat_over_300_steps(trained, family, dataset, tmp_path, monkeypatch):
    monkeypatch.setattr(type(TASK), "terms", lambda *_: [Term("tied", 1.0, tied)])
    stage = grpo_stage(
        family,
        steps=STEPS,
        learning_rate=1e-5,
        max_completion_length=12,
        dynamic_sampling_rounds=1,
        logging_steps=5,
        save_steps=25,
        log_completions_steps=10,
    )
    trainer, progress = prepare_grpo(stage, trained, dataset, tmp_path / "grpo", None)
    memory = Memory()
    trainer.add_callback(memory)
    parents = [dataset / MANIFEST, trained / MANIFEST]
    run_training(trainer, progress, stage, trained, parents, dataset, tmp_path / "grpo")
    found = growth(memory.steps, memory.kib)
    print(
        f"SOAK {family}: {found:.2f} KiB per step over steps {memory.steps[0]}..{memory.steps[-1]},"
        f" resident {memory.kib[0] / 1024:.0f} MiB, then {memory.kib[-1] / 1024:.0f} MiB"
    )
    entries = [entry for entry in history(tmp_path / "grpo") if "reward" in entry]
    assert len(entries) == STEPS / 5
    assert any(entry["resampling/prompts"] > 2 for entry in entries)
    assert found < BOUND
