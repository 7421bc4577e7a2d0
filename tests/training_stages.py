"""Small stages of training that many tests run."""

import json
import shutil
from pathlib import Path

import numpy as np
import torch
from conftest import TINY
from PIL import Image

import medtune.training  # noqa: F401  (declares operators before transformers is imported)
from medtune.config.data import TaskConfig
from medtune.config.stages import GrpoStage, ModelStage, SftStage
from medtune.config.training import GrpoConfig, ModelConfig, RewardConfig, SftConfig
from medtune.models.coordinate_format import COORDINATE_FORMATS
from medtune.models.inputs import encode_sample
from medtune.models.loading import load_model, load_processor
from medtune.records.sample import Media, Sample, iterate, load_split, write_dataset
from medtune.runtime.files import sha256, write_manifest
from medtune.tasks import get_task
from medtune.training import grpo
from medtune.training.base_model import prepare_base
from medtune.training.grpo_rewards import reward_function
from medtune.training.grpo_trainer import VideoGRPOTrainer
from medtune.training.run import trainable_model

TASK = get_task(TaskConfig())


SFT = SftConfig(
    eval_generation_samples=32,
    learning_rate=2e-3,
    freeze=[],
    batch_size=4,
    gradient_accumulation=1,
    gradient_checkpointing=False,
    logging_steps=1,
    epochs=3,
    eval_steps=6,
    decay_ratio=0.3,
)


GRPO = GrpoConfig(
    learning_rate=1e-3,
    freeze=[],
    batch_size=8,
    gradient_accumulation=1,
    num_generations=4,
    gradient_checkpointing=False,
    logging_steps=1,
    weight_decay=0,  # what changes, changes by the reward's gradient
    steps=2,
    max_completion_length=48,
    warmup_ratio=0,
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


def assert_weights_close(first: Path, second: Path, largest: float) -> None:
    """Check that no weight of two models differs by `largest`, and their mean by far less."""
    ours, others = weights(first), weights(second)
    gaps = torch.cat([(ours[name] - others[name]).abs().flatten() for name in ours])
    print(f"weights: largest {gaps.max():.2g}, mean {gaps.mean():.2g}")
    assert gaps.max() < largest
    assert gaps.mean() < 1e-7


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


def make_trainer(
    start: Path, family, dataset: Path, terms=None, engine=None, **changes
) -> VideoGRPOTrainer:
    """A GRPO trainer that has not begun."""
    stage = grpo_stage(family, **changes)
    processor = load_processor(start)
    dialect = COORDINATE_FORMATS[family]
    return VideoGRPOTrainer(
        model=trainable_model(start, stage.model, stage.grpo),
        reward_funcs=reward_function(TASK, terms or TASK.terms("default", {}), dialect, 4),
        args=grpo._arguments(stage, processor),
        train_dataset=load_split(dataset, "train").with_transform(grpo.as_prompts),
        processing_class=processor,
        encode=lambda s: encode_sample(processor, s, TASK.prompt(s, dialect), dataset),
        grpo=stage.grpo,
        engine=engine,
    )


def groups(samples, count: int, key=lambda s: s.media[0].frames) -> list[dict]:
    """Rows of `count` prompts that differ in `key`, each four times, as TRL's sampler gives them.

    Videos are of different lengths if nothing else is said.
    """
    chosen = {key(s): s for s in samples}
    return [
        {"prompt": [{"role": "user", "content": s.prompt}], "sample": s}
        for s in list(chosen.values())[:count]
        for _ in range(4)
    ]


def changed_dataset(dataset: Path, folder: Path, change) -> Path:
    """Write a data set whose samples `change(sample, number, split)` has changed; return it."""
    made = []
    for split in ("train", "val", "test"):
        for number, sample in enumerate(iterate(load_split(dataset, split))):
            media = sample.media[0]
            media = media.model_copy(update={"path": str((dataset / media.path).resolve())})
            made.append(change(sample.model_copy(update={"media": [media]}), number, split))
    write_dataset(made, folder)
    write_manifest(
        folder, [path for path in folder.rglob("*") if path.is_file()], {}, stage="model"
    )
    return folder


def write_image(path: Path, seed: int, height: int = 32, width: int = 48, mode: str = "RGB"):
    pixels = np.random.default_rng(seed).integers(0, 255, (height, width, 3), dtype=np.uint8)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).convert(mode).save(path)
    return Media(
        kind="image",
        path=str(path),
        width=width,
        height=height,
        frames=1,
        fps=0,
        sha256=sha256(path),
    )


def as_image(sample: Sample, media: Media) -> Sample:
    return sample.model_copy(update={"media": [media]})


def mixed_dataset(dataset: Path, folder: Path) -> Path:
    """Write a data set in which every other sample shows an image, of many sizes; return it."""

    def change(sample, number, split):
        path = folder / f"images/{split}-{number}.png"
        media = write_image(path, number, 32 * (1 + number % 7))
        return as_image(sample, media) if number % 2 else sample

    return changed_dataset(dataset, folder / "datasets", change)
