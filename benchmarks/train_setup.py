"""What the benchmark of training runs on: synthetic videos, and models without training."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

import medtune.training  # noqa: F401  (declares operators before transformers is imported)
from medtune.config.data import (
    MediaConfig,
    PhantomConfig,
    SourceConfig,
    SplitsConfig,
    TargetConfig,
    TaskConfig,
    VerificationConfig,
)
from medtune.config.stages import AnnotateStage, ConvertStage, GrpoStage, ModelStage, SftStage
from medtune.config.training import (
    GrpoConfig,
    LoraConfig,
    ModelConfig,
    RewardConfig,
    SftConfig,
    TinyConfig,
)
from medtune.dataset.annotate import annotate
from medtune.media.shard import convert_shard
from medtune.models.tiny import tiny_config, tiny_processor, train_tokenizer
from medtune.planning.memory import ShardingPlan, Workload, meta_model, needed
from medtune.records.sample import iterate, load_split
from medtune.runtime.errors import ModelError
from medtune.runtime.files import write_manifest
from medtune.sources.brain.phantom import write_phantom
from medtune.sources.index import read_shard, write_index
from medtune.sources.verify import gather, verify_shard
from medtune.training.base_model import prepare_base

# Sizes of Qwen2.5-VL-3B-Instruct and Qwen3-VL-2B-Instruct, from their config.json.
RELEASED: dict[str, dict[str, dict[str, Any]]] = {
    "qwen2_5_vl": {
        "text_config": {
            "vocab_size": 151936,
            "hidden_size": 2048,
            "intermediate_size": 11008,
            "num_hidden_layers": 36,
            "num_attention_heads": 16,
            "num_key_value_heads": 2,
            "max_position_embeddings": 128000,
            "rope_parameters": {
                "rope_type": "default",
                "rope_theta": 1e6,
                "mrope_section": [16, 24, 24],
            },
            "initializer_range": 0.02,
        },
        "vision_config": {
            "depth": 32,
            "hidden_size": 1280,
            "intermediate_size": 3420,
            "num_heads": 16,
            "patch_size": 14,
            "window_size": 112,
            "fullatt_block_indexes": [7, 15, 23, 31],
            "out_hidden_size": 2048,
            "initializer_range": 0.02,
        },
    },
    "qwen3_vl": {
        "text_config": {
            "vocab_size": 151936,
            "hidden_size": 2048,
            "intermediate_size": 6144,
            "num_hidden_layers": 28,
            "num_attention_heads": 16,
            "num_key_value_heads": 8,
            "head_dim": 128,
            "max_position_embeddings": 262144,
            "rope_parameters": {
                "rope_type": "default",
                "rope_theta": 5e6,
                "mrope_section": [24, 20, 20],
                "mrope_interleaved": True,
            },
            "initializer_range": 0.02,
        },
        "vision_config": {
            "depth": 24,
            "hidden_size": 1024,
            "intermediate_size": 4096,
            "num_heads": 16,
            "patch_size": 16,
            "deepstack_visual_indexes": [5, 11, 17],
            "num_position_embeddings": 2304,
            "out_hidden_size": 2048,
            "initializer_range": 0.02,
        },
    },
}
TASK = TaskConfig()


@dataclass(frozen=True)
class Setup:
    """What is measured.

    Attributes:
        family: Model family.
        size: `tiny`, or `3b`: the smallest released size, 3 B or 2 B.
        frames: Frames of a video.
        side: Height and width of a frame, a multiple of the merged patch.
        rows: Sequences in a forward pass, all of an optimizer step.
        group: Answers to a prompt.
        answer: Longest answer in tokens.
    """

    family: Any
    size: str
    frames: int
    side: int
    rows: int
    group: int
    answer: int

    @property
    def tiny(self) -> TinyConfig:
        """The tiny shape, whose patch is the released model's where that is measured."""
        if self.size == "tiny":
            return TinyConfig()
        return TinyConfig(patch_size=RELEASED[self.family]["vision_config"]["patch_size"])

    def model(self, folder: Path) -> ModelConfig:
        """The model section."""
        if self.size == "tiny":
            return ModelConfig(family=self.family, builder="tiny", tiny=self.tiny)
        return ModelConfig(family=self.family, path=str(folder), dtype="bfloat16")

    @property
    def optimizer(self) -> dict[str, Any]:
        """What SFT and GRPO share: the tiny model trains whole, the large one adapters."""
        large = {"lora": LoraConfig(dropout=0), "freeze": ["vision", "projector"]}
        return {
            "batch_size": self.rows,
            "gradient_accumulation": 1,
            "gradient_checkpointing": self.size != "tiny",
            "logging_steps": 1,
            "warmup_ratio": 0,
            "learning_rate": 1e-6,
            **(large if self.size != "tiny" else {"freeze": []}),
        }

    def sft(self, folder: Path) -> SftStage:
        """The configuration of SFT."""
        sft = SftConfig(**self.optimizer, epochs=1)
        return SftStage(task=TASK, model=self.model(folder), sft=sft)

    def grpo(self, folder: Path, steps: int, **changes: Any) -> GrpoStage:
        """The configuration of GRPO."""
        grpo = GrpoConfig(
            **self.optimizer,
            steps=steps,
            num_generations=self.group,
            max_completion_length=self.answer,
            log_completions_steps=0,
            **changes,
        )
        return GrpoStage(task=TASK, model=self.model(folder), reward=RewardConfig(), grpo=grpo)


def make_dataset(setup: Setup, folder: Path, patients: int) -> Path:
    """Write a data set of synthetic patients by the pipeline's own stages; return its folder."""
    root, merged = folder / "phantom", 2 * setup.tiny.patch_size
    voxels = min(setup.side, 128)  # the conversion makes frames of any size
    shape = (voxels, voxels, setup.frames)
    values = {"patients": patients, "shape": shape, "follow_up": 0.0, "healthy": 0.0}
    write_phantom(PhantomConfig(root=str(root), **values), seed=1)  # type: ignore[arg-type]
    sources = [SourceConfig(name="phantom", kind="brats2023_gli", root=str(root))]
    media = MediaConfig(
        modalities=["t2f", "t1c", "t2w"],
        layout="rgb",
        tile_size=(setup.side, setup.side),
        multiple_of=merged,
    )
    index, checked, found = (folder / f"{name}.parquet" for name in ("index", "checked", "found"))
    summary, shard = folder / "verification.json", folder / "media/0000.parquet"
    splits = SplitsConfig(val=0.1, test=0.1)
    write_index(sources, index)
    verify_shard(read_shard(index, 0, patients), sources, VerificationConfig(), checked)
    gather([checked], splits, VerificationConfig(), found, summary)
    convert_shard(ConvertStage(media=media, task=TargetConfig()), checked, shard)
    annotate(AnnotateStage(splits=splits, task=TASK), [shard], summary, folder / "datasets")
    return folder / "datasets"


def make_model(setup: Setup, dataset: Path, folder: Path) -> Path:
    """Write a model with random weights, which writes answers of full length; return its folder."""
    if setup.size == "tiny":
        prepare_base(ModelStage(task=TASK, model=setup.model(folder)), dataset, folder)
        return folder
    from transformers import AutoModelForImageTextToText

    shape = write_shape(
        setup, [sample.prompt for sample in iterate(load_split(dataset, "train"))], folder
    )
    torch.manual_seed(1)
    with torch.device("cuda" if torch.cuda.is_available() else "cpu"):
        whole = AutoModelForImageTextToText.from_config(shape, dtype=torch.bfloat16)
    whole.save_pretrained(folder)
    del whole
    torch.cuda.empty_cache()
    write_manifest(folder, [path for path in folder.rglob("*") if path.is_file()], {})
    return folder


def write_shape(setup: Setup, texts: list[str], folder: Path) -> Any:
    """Write processor and configuration of a released size; return the configuration.

    The tokenizer is a small one, since prompts are mostly video; the vocabulary is of full size.
    """
    tokenizer = train_tokenizer(texts)
    small = tiny_config(setup.family, setup.tiny, tokenizer)
    values = small.to_dict()
    for part, sizes in RELEASED[setup.family].items():
        values[part] |= sizes
    values["text_config"].pop("layer_types", None)
    shape = type(small).from_dict(values | {"tie_word_embeddings": True})
    shape.save_pretrained(folder)
    tiny_processor(setup.family, setup.tiny, tokenizer).save_pretrained(folder)
    return shape


def check_machine(setup: Setup, folder: Path) -> None:
    """Check that the large model has a GPU.

    Raises:
        ModelError: It has none; the message says how much memory it needs.
    """
    if setup.size == "tiny" or torch.cuda.is_available():
        return
    write_shape(setup, ["How large?"], folder)
    merged, videos = 2 * setup.tiny.patch_size, max(1, setup.rows // setup.group)
    frames = -(-setup.frames // 2)
    vision = frames * (setup.side // merged) ** 2
    work = Workload(
        rows=setup.rows,
        tokens=vision + setup.answer,  # and some of the question
        scored=setup.answer,
        videos=videos,
        patches=4 * vision,
        frames=frames,
        rollouts=setup.rows,
        rollout_videos=videos,
    )
    stage = setup.grpo(folder, 1)
    model = meta_model(folder, stage.model, stage.grpo)
    phases = needed(model, stage.model, stage.grpo, work, ShardingPlan())
    peak = max(sum(parts.values()) for parts in phases.values()) / 2**30
    raise ModelError(
        f"--size {setup.size}",
        f"{sum(p.numel() for p in model.parameters()) / 1e9:.2f} B parameters, adapters included, "
        f"and {setup.rows} sequences of {vision:,} vision tokens need a GPU with about "
        f"{peak:.0f} GiB free; this machine has no GPU",
        "run it on one (fewer --rows need less), or take --size tiny",
    )
