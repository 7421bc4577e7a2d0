"""Small stages of training that many tests run."""

import json
import shutil
from pathlib import Path

import torch
from conftest import TINY

import medtune.training  # noqa: F401  (declares operators before transformers is imported)
from medtune.models.base import prepare_base
from medtune.models.loading import load_model
from medtune.sections.data import TaskConfig
from medtune.sections.training import GrpoConfig, ModelConfig, RewardConfig, SftConfig
from medtune.stages import GrpoStage, ModelStage, SftStage
from medtune.tasks import get_task

TASK = get_task(TaskConfig())


SFT = SftConfig(
    evaluate_reward_samples=32,
    learning_rate=2e-3,
    freeze=[],
    batch_size=4,
    gradient_accumulation=1,
    gradient_checkpointing=False,
    log_every=1,
    epochs=3,
    evaluate_every=6,
    decay=0.3,
)


GRPO = GrpoConfig(
    learning_rate=1e-3,
    freeze=[],
    batch_size=8,
    gradient_accumulation=1,
    num_generations=4,
    gradient_checkpointing=False,
    log_every=1,
    weight_decay=0,  # what changes, changes by the reward's gradient
    steps=2,
    max_completion_length=48,
    warmup=0,
)


def model_config(family: str) -> ModelConfig:
    return ModelConfig(family=family, builder="tiny", tiny=TINY)


def sft_stage(family: str, **changes) -> SftStage:
    sft = SFT.model_copy(update=changes)
    return SftStage(task=TaskConfig(), model=model_config(family), sft=sft)


def grpo_stage(family: str, **changes) -> GrpoStage:
    return GrpoStage(
        task=TaskConfig(),
        model=model_config(family),
        reward=RewardConfig(),
        grpo=GRPO.model_copy(update=changes),
    )


def history(folder: Path) -> list[dict]:
    return json.loads((folder / "history.json").read_text())


def weights(folder: Path) -> dict[str, torch.Tensor]:
    from safetensors.torch import load_file

    return load_file(folder / "model.safetensors")


def make_base(family: str, dataset: Path, folder: Path) -> None:
    prepare_base(ModelStage(task=TaskConfig(), model=model_config(family)), dataset, folder)


def release(family: str, base: Path, dataset: Path) -> Path:
    """Write a copy of a model in bfloat16 and with settings for generation; return its name."""
    folder = base.parent / "released"
    shutil.copytree(base, folder)
    load_model(base, model_config(family)).bfloat16().save_pretrained(folder)
    settings = json.loads((folder / "generation_config.json").read_text())
    poison = {"repetition_penalty": 5.0, "no_repeat_ngram_size": 2, "top_k": 1, "min_new_tokens": 9}
    (folder / "generation_config.json").write_text(json.dumps(settings | poison))
    config = ModelConfig(family=family, path=str(folder), dtype="bfloat16")
    prepare_base(ModelStage(task=TaskConfig(), model=config), dataset, folder.parent / "named")
    return folder.parent / "named"
