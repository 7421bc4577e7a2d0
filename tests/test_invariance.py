"""What must not matter does not: how a batch is split up, and recomputed activations."""

from statistics import fmean

import pytest
import torch
from conftest import long, one_family
from test_processes import varied
from training_stages import TASK, history, sft_stage
from transformers import modeling_utils

from medtune.config.training import LoraConfig
from medtune.models.coordinate_format import COORDINATE_FORMATS
from medtune.models.loading import load_model, load_processor
from medtune.records.sample import load_split
from medtune.training.batches import IGNORED, SftCollator
from medtune.training.grpo import train_grpo
from medtune.training.sft import train_sft

# Float32 sums in another order, amplified by 30 steps of AdamW at a high rate; losses are 7 to 3.
# Seen on CPU: at most 1.4e-6, on average 4.8e-7.
MAX_DIFFERENCE, MEAN_DIFFERENCE = 1e-5, 5e-6
SPLIT = {"batch_size": 1, "gradient_accumulation": 8}
RECOMPUTED = SPLIT | {"gradient_checkpointing": True}
ADAPTERS = {"lora": LoraConfig(rank=4, alpha=8, dropout=0), "freeze": ["vision"]}
STEPS = 30


@pytest.fixture
def recomputed(monkeypatch) -> list[int]:
    """Fills when activations are recomputed."""
    calls, inner = [], modeling_utils.checkpoint

    def noted(*args, **kwargs):
        calls.append(1)
        return inner(*args, **kwargs)

    monkeypatch.setattr(modeling_utils, "checkpoint", noted)
    return calls


@pytest.fixture
def quick(monkeypatch) -> None:
    """Each sample is decoded once for all runs of a test."""
    known, inner = {}, SftCollator.question

    def question(self, sample):
        if sample.id not in known:
            known[sample.id] = inner(self, sample)
        return known[sample.id]

    monkeypatch.setattr(SftCollator, "question", question)


def figures(folder, names: tuple[str, ...]) -> dict[str, list[float]]:
    log = history(folder)
    return {name: [entry[name] for entry in log if name in entry] for name in names}


def assert_same(expected: dict, found: dict, name: str) -> None:
    """Compare trajectories; of each figure the largest and the mean difference are bounded."""
    for figure, values in expected.items():
        gaps = [abs(a - b) for a, b in zip(values, found[figure], strict=True)]
        print(f"GAP {name}, {figure}: max {max(gaps):.2g}, mean {fmean(gaps):.2g}")
        assert max(gaps) <= MAX_DIFFERENCE, (name, figure)
        assert fmean(gaps) <= MEAN_DIFFERENCE, (name, figure)


@one_family
@pytest.mark.parametrize(
    "adapters",
    [pytest.param(False, id="weights"), pytest.param(True, id="adapters", marks=long)],
)
def test_losses_do_not_depend_on_how_a_batch_is_computed(
    base, family, dataset, tmp_path, adapters, recomputed, quick
):
    """30 steps of 8 samples, or of the single one that is left of an epoch of 17."""
    common = {"epochs": 14, "eval_steps": 100, "eval_generation_samples": 0}
    common |= {"learning_rate": 1e-3, "batch_size": 8} | (ADAPTERS if adapters else {})
    train_sft(sft_stage(family, **common), base, dataset, tmp_path / "8x1")
    expected = figures(tmp_path / "8x1", ("loss", "grad_norm", "eval_loss"))
    assert len(expected["loss"]) == STEPS
    for changes in [RECOMPUTED] if adapters else [SPLIT, RECOMPUTED]:
        assert not recomputed
        name = f"1x8, checkpointing {changes is RECOMPUTED}"
        train_sft(sft_stage(family, **common | changes), base, dataset, tmp_path / name)
        assert_same(expected, figures(tmp_path / name, tuple(expected)), name)
    assert recomputed


@one_family
def test_grpo_does_not_depend_on_how_a_batch_is_computed(
    trained, family, dataset, tmp_path, recomputed
):
    """30 steps of two prompts with four answers each, used twice.

    The loss divides by a constant with one family and by the step's tokens with the other (bnpo
    divides by the tokens of each forward pass, by definition).
    """
    common = {"steps": STEPS, "learning_rate": 1e-3, "max_completion_length": 8, "beta": 0.04}
    common |= {"num_iterations": 2, "log_completions_steps": 0}
    common["loss_type"] = {"qwen2_5_vl": "dr_grpo", "qwen3_vl": "dapo"}[family]
    train_grpo(varied(family, tmp_path, **common), trained, dataset, tmp_path / "8x1")
    expected = figures(tmp_path / "8x1", ("loss", "grad_norm", "reward"))
    assert len(expected["loss"]) == STEPS
    assert len(set(expected["reward"])) > 10  # the weights change, and with them the answers
    assert not recomputed
    stage = varied(family, tmp_path, **common | RECOMPUTED)
    train_grpo(stage, trained, dataset, tmp_path / "1x8")
    assert recomputed
    assert_same(expected, figures(tmp_path / "1x8", tuple(expected)), "GRPO, 1x8, checkpointing")


def test_the_validation_loss_is_the_mean_over_tokens(base, family, dataset, tmp_path):
    stage = sft_stage(family, epochs=0.2, eval_generation_samples=0)
    train_sft(stage, base, dataset, tmp_path / "a")
    collator = SftCollator(load_processor(base), TASK, COORDINATE_FORMATS[family], dataset)
    batch = collator(list(load_split(dataset, "val")))
    labels = batch.pop("labels")[:, 1:]
    counts = (labels != IGNORED).sum(dim=1)
    assert len(set(counts.tolist())) > 1  # else it would be the mean over rows as well
    with torch.no_grad():
        logits = load_model(tmp_path / "a", stage.model)(**batch).logits[:, :-1]
    expected = torch.nn.functional.cross_entropy(logits.flatten(0, 1), labels.flatten())
    assert figures(tmp_path / "a", ("eval_loss",))["eval_loss"][-1] == pytest.approx(
        float(expected), abs=1e-4
    )
