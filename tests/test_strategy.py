"""The strategy that is asked for is the one that runs, or nothing does."""

from types import SimpleNamespace

import pytest
from accelerate import Accelerator
from training_stages import model_config, sft_stage

from medtune.config.training import LoraConfig
from medtune.runtime.errors import ConfigError
from medtune.training import strategy
from medtune.training.sft import train_sft

MODEL = model_config("qwen3_vl")


def refusal(monkeypatch, torchrun: bool = True, model=MODEL, **changes) -> str:
    if torchrun:
        monkeypatch.setenv("LOCAL_RANK", "0")
    with pytest.raises(ConfigError) as caught:
        strategy.strategy_arguments(sft_stage("qwen3_vl", **changes).sft, model)
    return str(caught.value)


@pytest.mark.parametrize("name", ["zero2", "zero3", "zero3_offload", "fsdp2"])
def test_shards_need_torchrun(base, family, dataset, tmp_path, name):
    with pytest.raises(ConfigError, match=f"{name} shares .* torchrun did not start this one"):
        train_sft(sft_stage(family, strategy=name), base, dataset, tmp_path / "sft")


def test_what_would_not_run_is_refused(monkeypatch):
    monkeypatch.setattr(strategy, "GPUS", False)
    assert "would quietly run ddp" in refusal(monkeypatch, strategy="fsdp2")
    bf16 = MODEL.model_copy(update={"dtype": "bfloat16"})
    lora = {"lora": LoraConfig(), "freeze": ["vision"]}
    said = refusal(monkeypatch, model=bf16, strategy="zero3", **lora)
    assert "cannot gather adapters" in said
    monkeypatch.setattr(strategy.importlib.util, "find_spec", lambda _: None)
    assert "make deepspeed" in refusal(monkeypatch, strategy="zero2")


@pytest.mark.parametrize("name", ["zero2", "fsdp2"])
def test_a_quiet_fallback_is_an_error(name):
    trainer = SimpleNamespace(accelerator=Accelerator(cpu=True))
    with pytest.raises(ConfigError, match=f"ddp runs in 1 processes, expected {name} in 1"):
        strategy.settle_strategy(trainer, name, MODEL)
    strategy.settle_strategy(trainer, "ddp", MODEL)


def test_processes_that_do_not_know_of_each_other_are_an_error(monkeypatch):
    monkeypatch.setattr(strategy, "PROCESSES", 2)
    trainer = SimpleNamespace(accelerator=Accelerator(cpu=True))
    with pytest.raises(ConfigError, match="expected ddp in 2"):
        strategy.settle_strategy(trainer, "ddp", MODEL)
