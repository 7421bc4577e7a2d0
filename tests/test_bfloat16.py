"""Compute precision bfloat16 in several processes: trained weights stay float32."""

import pytest
import torch
from test_processes import column, needs_deepspeed, qwen3, run
from training_stages import sft_stage, weights

from medtune.config.training import LoraConfig
from medtune.training.sft import train_sft


@needs_deepspeed
@qwen3
@pytest.mark.parametrize(
    ("strategy", "lora"), [("zero3", None), ("zero2", LoraConfig(rank=4, alpha=8, dropout=0))]
)
def test_sharded_bfloat16_trains_float32_weights(
    family, released, dataset, tmp_path, strategy, lora
):
    changes = {"epochs": 1, "eval_steps": 2, "eval_generation_samples": 2, "keep_best": False}
    changes |= {"learning_rate": 1e-3, "lora": lora, "freeze": ["vision"]}

    def stage(**more):
        whole = sft_stage(family, **changes, **more)
        half = whole.model.model_copy(update={"dtype": "bfloat16"})
        return whole.model_copy(update={"model": half})

    train_sft(stage(batch_size=8), released, dataset, tmp_path / "one")
    run("sft", stage(strategy=strategy), released, dataset, tmp_path / "two")
    for name in ("loss", "grad_norm", "eval_loss"):
        first, second = (column(tmp_path / folder, name) for folder in ("one", "two"))
        assert first == pytest.approx(second, rel=5e-3)
    trained, found = weights(tmp_path / "one"), weights(tmp_path / "two")
    gaps = torch.cat([(trained[k] - found[k]).abs().flatten() for k in trained])
    assert gaps.mean() < 5e-5
    moved = torch.cat([found[k].flatten() for k in found if "language" in k and "proj" in k])
    assert (moved == moved.bfloat16()).float().mean() < 0.01  # not rounded
