"""The pass over the longest sample before training: it changes nothing, and explains itself."""

import pytest
import torch
from training_stages import TASK, grpo_stage, sft_stage

import medtune.training  # noqa: F401  (declares operators before transformers is imported)
from medtune.config.training import LoraConfig
from medtune.models.coordinate_format import COORDINATE_FORMATS
from medtune.models.loading import load_processor
from medtune.runtime.errors import ModelError
from medtune.runtime.files import sha256
from medtune.training import memory_check as longest
from medtune.training.batches import SftCollator
from medtune.training.grpo import VideoGRPOTrainer, train_grpo
from medtune.training.sft import train_sft

ADAPTERS = {"lora": LoraConfig(rank=4, alpha=8, dropout=0.5), "freeze": ["vision"]}
SHORT = {"epochs": 0.5, "eval_generation_samples": 0, "patience": None}
RUNS = {
    "sft": (train_sft, lambda family: sft_stage(family, **SHORT)),
    "sft with adapters": (train_sft, lambda family: sft_stage(family, **SHORT, **ADAPTERS)),
    "grpo": (train_grpo, grpo_stage),
}


@pytest.mark.parametrize("run", RUNS)
def test_the_pass_changes_nothing_of_the_training(
    base, family, dataset, tmp_path, run, monkeypatch, capsys
):
    train, stage = RUNS[run]
    train(stage(family), base, dataset, tmp_path / "without")
    assert "longest sample: not tried" in capsys.readouterr().err
    monkeypatch.setattr(longest, "wanted", lambda _: True)
    train(stage(family), base, dataset, tmp_path / "with")
    assert "tokens fit" in capsys.readouterr().err
    for name in ("model.safetensors", "history.json"):
        assert sha256(tmp_path / "without" / name) == sha256(tmp_path / "with" / name), name


@pytest.mark.parametrize("run", ["sft", "grpo"])
def test_out_of_memory_names_the_sample_and_what_to_change(
    base, family, dataset, samples, tmp_path, run, monkeypatch
):
    train, stage = RUNS[run]
    collator = SftCollator(load_processor(base), TASK, COORDINATE_FORMATS[family], dataset)
    lengths = {sample.id: collator.length(sample) for sample in samples}
    most = max(lengths.values())

    def full(*_, **__):
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(longest, "wanted", lambda _: True)
    if run == "sft":
        monkeypatch.setattr(torch.Tensor, "backward", full)
    else:
        monkeypatch.setattr(VideoGRPOTrainer, "_get_per_token_logps_and_entropies", full)
    with pytest.raises(ModelError, match=rf"\({most:,} tokens\) does not fit") as caught:
        train(stage(family), base, dataset, tmp_path / "out")
    assert lengths[caught.value.where] == most
    assert f"{run}.gradient_checkpointing" in str(caught.value)
    assert not (tmp_path / "out").exists()
