"""Sections about the model: reward, model, SFT, GRPO, evaluation and report."""

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from medtune.config.base import (
    AnyFamily,
    Count,
    Family,
    Fault,
    Fraction,
    NonNegative,
    Part,
    Positive,
    Section,
)
from medtune.config.chest_scores import RewardServiceConfig
from medtune.config.rollouts import CurriculumConfig, RolloutConfig
from medtune.runtime.errors import ConfigError

Strategy = Literal["ddp", "zero2", "zero3", "zero3_offload", "fsdp2"]


class RewardConfig(Section):
    """How an answer is paid in GRPO and scored in evaluation."""

    preset: Literal[
        "default",
        "published_4_5",
        "published_5_5",
        "published_6_5",
        "published_7_5",
        "published_8_5_smooth",
        "published_8_5_stepped",
        "published_9_0",
        "published_10_0",
        "published_10_5",
    ] = Field(
        "default",
        description="Named set of reward terms and weights. All but `default` and `published_5_5` "
        "need `task.chain_of_thought`.",
    )
    weights: dict[str, NonNegative] = Field(
        {}, description="Weights of terms in `file`, and weights that replace those of the preset."
    )
    file: str | None = Field(
        None,
        description="Python file with terms of your own. It is executed; "
        "`medtune/rewards/custom.py` says what it holds.",
    )
    service: RewardServiceConfig | None = Field(
        None, description="A further term, for reports, from `medtune reward-service`."
    )

    @property
    def pays_reasoning(self) -> bool:
        """Whether the preset has terms for the think block."""
        return self.preset not in ("default", "published_5_5")


class TinyConfig(Section):
    """Shape of the tiny model that `model.builder: tiny` makes from the real classes."""

    hidden_size: Count = Field(128, description="Width of the language model.")
    layers: Count = Field(3, description="Layers of the language model.")
    heads: Count = Field(4, description="Attention heads of the language model.")
    mlp_size: Count = Field(384, description="Width of the language model's MLP.")
    vision_size: Count = Field(96, description="Width of the vision tower.")
    vision_layers: Count = Field(2, description="Layers of the vision tower.")
    patch_size: Count = Field(8, description="Side of a vision patch in pixels.")
    rope_theta: Positive | None = Field(
        None,
        description="Base of the rotary positions; null: 10 for Qwen2.5-VL and 10000 for Qwen3-VL, "
        "which suit a small token grid.",
    )


class FamilyConfig(Section):
    """What a baseline reads of `model`."""

    family: Family = Field(description="Decides the box dialect and the processor.")


class ModelConfig(FamilyConfig):
    """The model that is post-trained. Give either `path` or `builder`."""

    path: str | None = Field(None, description="Local folder or hub id of the base model.")
    revision: str | None = Field(None, description="Hub revision to fetch; null: the newest.")
    builder: Literal["tiny"] | None = Field(
        None, description="Build a tiny random model offline instead (demo, tests)."
    )
    tiny: TinyConfig = Field(TinyConfig(), description="Shape of the tiny model.")
    download: bool = Field(False, description="Allow fetching `path` from the hub.")
    dtype: Literal["float32", "bfloat16"] = Field(
        "float32",
        description="Compute precision. Trained weights stay float32 (a frozen base under LoRA may "
        "be bfloat16).",
    )
    attn_implementation: Literal["sdpa", "eager", "flash_attention_2"] = Field(
        "sdpa", description="Attention implementation."
    )
    added_tokens: list[Annotated[str, Field(min_length=1)]] = Field(
        [],
        description="Texts, such as bins of time, that become one token each; the base model must "
        "not have them. With lora, of the head only their rows are trained.",
    )

    def faults(self) -> Iterator[Fault]:
        """Yield an origin that is not one, and tokens that are added twice."""
        if (self.path is None) == (self.builder is None):
            found = f"is {self.path!r}, and model.builder is {self.builder!r}"
            remedy = "give exactly one of model.path and model.builder"
            yield Fault(("path", "builder"), found, remedy)
        if twice := sorted({t for t in self.added_tokens if self.added_tokens.count(t) > 1}):
            yield Fault(("added_tokens",), f"holds {twice[0]!r} twice", "take one away")

    @property
    def merged_patch(self) -> int:
        """Side in pixels of the square that becomes one vision token: patch x merge."""
        if self.builder:
            return 2 * self.tiny.patch_size
        return {"qwen2_5_vl": 28, "qwen3_vl": 32}[self.family]


class AnsweringConfig(ModelConfig):
    """A model that answers the test split; it may be of a family that is not trained."""

    family: AnyFamily = Field(  # type: ignore[assignment]
        description="Decides the box dialect and the processor."
    )
    remote_code: bool = Field(False, description="Run the Python code in the model's folder.")

    @model_validator(mode="before")
    @classmethod
    def _from_trained(cls, values: Any) -> Any:
        return values.model_dump() if type(values) is ModelConfig else values


class LoraConfig(Section):
    """Low-rank adapters on the linear layers of the language model (Hu et al. 2021)."""

    rank: Count = Field(64, description="Rank of the adapters.")
    alpha: Positive = Field(128, description="Scale: alpha / rank.")
    dropout: Fraction = Field(
        0.05,
        description="Dropout inside the adapters, in SFT; off in GRPO, where answers must be "
        "scored by the model that wrote them.",
    )
    train_head: bool = Field(
        False, description="Train the whole head too, beside the adapters; false: frozen."
    )


class LearningRates(Section):
    """Peak learning rates of single parts; null: `learning_rate`."""

    vision: Positive | None = Field(None, description="Vision tower.")
    projector: Positive | None = Field(None, description="What maps its features to tokens.")
    head: Positive | None = Field(
        None, description="Input embeddings and output layer; null: the rate of `language`."
    )
    language: Positive | None = Field(None, description="Language model, or its adapters.")

    def given(self) -> dict[Part, float]:
        """Return the rates that are set, by part."""
        rates: dict[Part, float | None] = {
            "vision": self.vision,
            "projector": self.projector,
            "head": self.head,
            "language": self.language,
        }
        return {part: rate for part, rate in rates.items() if rate is not None}


class OptimizerConfig(Section):
    """What SFT and GRPO share."""

    learning_rate: Positive = Field(1e-5, description="Peak learning rate.")
    learning_rates: LearningRates = Field(
        LearningRates(), description="Other peak rates for parts of the model."
    )
    weight_decay: NonNegative = Field(
        0.01, description="AdamW weight decay (never of biases and norms)."
    )
    max_grad_norm: Positive = Field(1.0, description="Gradient clipping.")
    warmup_ratio: Fraction = Field(0.03, description="Share of steps with a rising learning rate.")
    lora: LoraConfig | None = Field(
        None, description="Adapters; null trains the weights themselves."
    )
    freeze: list[Part] = Field(
        ["vision"],
        description="Parts that are not trained. The head, input embeddings and output layer, is "
        "one of its own, not in `language`.",
    )
    gradient_checkpointing: bool = Field(
        True, description="Recompute activations in the backward pass: less memory, more time."
    )
    batch_size: Count = Field(1, description="Sequences per process in one forward pass.")
    gradient_accumulation: Count = Field(8, description="Forward passes per optimizer step.")
    dataset_weights: dict[str, Positive] = Field(
        {},
        description="How often samples come in an epoch, by source or `source/task`; 1 where none "
        "is given.",
    )
    strategy: Strategy = Field(
        "ddp",
        description="How several processes share model and optimizer: whole copies (ddp), or "
        "shards by DeepSpeed (zero2, zero3, zero3_offload: in host memory) or torch (fsdp2).",
    )
    step_timeout_minutes: Positive = Field(
        60,
        description="Longest time without a step, an evaluated batch or a checkpoint: then all "
        "stacks are printed and the run ends, to go on from its last checkpoint when run again.",
    )
    logging_steps: Count = Field(10, description="Steps between log lines.")
    save_steps: Count = Field(
        100,
        description="Steps between checkpoints, from which an interrupted run goes on exactly; "
        "rounded up to a multiple of `logging_steps`.",
    )
    patience: Count | None = Field(
        None,
        description="Stop after this many evaluations without a better one: a higher reward of "
        "greedy answers, or an equal one and, in SFT, a lower loss (the loss alone without "
        "`eval_generation_samples`), in GRPO a higher reward of sampled answers; null: off.",
    )
    keep_best: bool = Field(
        True,
        description="The result is the best evaluated step, by the same measure; false, or without "
        "evaluations: the last step.",
    )

    def faults(self) -> Iterator[Fault]:
        """Yield parts that would be trained and frozen at once, or neither."""
        if self.lora and "vision" not in self.freeze:
            found = "adapters are put on the language model alone"
            yield Fault(("freeze", "lora"), found, "with lora, freeze vision")
        if self.lora and "language" in self.freeze:
            found = "holds language, which the adapters of lora train"
            yield Fault(("freeze", "lora"), found, "take language out of freeze, or set lora: null")
        if self.lora and self.lora.train_head and "head" in self.freeze:
            found = "is set, but freeze holds head"
            yield Fault(("lora.train_head", "freeze"), found, "take one of them away")
        for part in self.learning_rates.given():
            if part in self.freeze:
                key, found = f"learning_rates.{part}", f"is set, but freeze holds {part}"
                yield Fault((key, "freeze"), found, "take one of them away")

    @property
    def trains_rows(self) -> bool:
        """Whether of the head only the rows of added tokens are trained, if there are any."""
        return self.lora is not None and not self.lora.train_head and "head" not in self.freeze


class SftConfig(OptimizerConfig):
    """Supervised fine-tuning on the gold answers."""

    epochs: Positive = Field(2.0, description="Passes over the training split.")
    max_tokens_per_batch: Count | None = Field(
        None,
        description="Tokens in one forward pass, padding included (rows x longest row): batches of "
        "samples of similar length, instead of `batch_size`, which evaluation keeps; null: off.",
    )
    decay_ratio: Fraction = Field(
        1.0,
        description="Last share of steps in which the rate falls to 0 (1: from the warm-up on).",
    )
    eval_steps: Count = Field(
        200,
        description="Steps between evaluations on the validation split; the last step is evaluated "
        "too.",
    )
    eval_generation_samples: Annotated[int, Field(ge=0)] = Field(
        0,
        description="Validation samples answered greedily at every evaluation, for reward and task "
        "metrics, always the same; 0: the loss alone. Unless 0, a changed `reward` reruns SFT.",
    )


class GrpoConfig(OptimizerConfig):
    """Group-relative policy optimization (Shao et al. 2024) on the reward of sampled answers."""

    steps: Count = Field(500, description="Optimizer steps.")
    num_generations: Annotated[int, Field(ge=2)] = Field(
        8, description="Completions per prompt: the group that is compared."
    )
    temperature: Positive = Field(1.0, description="Sampling temperature of the rollouts.")
    rollouts: RolloutConfig = Field(RolloutConfig(), description="Who samples the answers.")
    rollout_batch: Count | None = Field(
        None,
        description="Completions generated together, a multiple of `num_generations` to share "
        "their video; null: all of a step. Smaller needs less memory; vLLM plans by itself.",
    )
    feature_cache_gb: NonNegative = Field(
        8.0,
        description="Most memory for the features of a frozen vision tower and projector, which "
        "are then computed once per rollout; 0: none.",
    )
    max_completion_length: Count = Field(512, description="Longest completion in tokens.")
    loss_type: Literal["grpo", "dr_grpo", "dapo", "bnpo"] = Field(
        "dr_grpo", description="Loss normalization, by TRL's names."
    )
    scale_rewards: Literal["group", "batch", "none"] = Field(
        "none", description="Divide advantages by this standard deviation (Dr. GRPO: none)."
    )
    beta: NonNegative = Field(0.0, description="Weight of the KL to the model GRPO starts from.")
    epsilon: Positive = Field(0.2, description="Lower clip of the probability ratio.")
    epsilon_high: Positive | None = Field(None, description="Upper clip; null: the same.")
    num_iterations: Count = Field(1, description="Updates per batch of rollouts.")
    importance_sampling: Literal["token", "sequence"] = Field(
        "token", description="Probability ratio per token, or of the whole answer (GSPO)."
    )
    curriculum: CurriculumConfig | None = Field(
        None, description="Choose prompts by difficulty, after a scoring pass; null: all."
    )
    mask_truncated: bool = Field(
        False, description="Leave answers that did not end out of the loss."
    )
    dynamic_sampling_rounds: Annotated[int, Field(ge=0)] = Field(
        0,
        description="Rounds, at most, in which groups whose answers all earn the same are replaced "
        "by other prompts (DAPO's dynamic sampling); 0: none.",
    )
    eval_steps: Count = Field(
        100,
        description="Steps between evaluations on the validation split; the last step is evaluated "
        "too.",
    )
    eval_generation_samples: Annotated[int, Field(ge=0)] = Field(
        32,
        description="Validation prompts answered at every evaluation, always the same, once "
        "greedily and once sampled with the same draws, for reward and task metrics; 0: no "
        "evaluation. They are rolled out as many at a time as a step has prompts.",
    )
    log_completions_steps: Annotated[int, Field(ge=0)] = Field(
        10,
        description="Steps between tables of all completions with their rewards and advantages; "
        "0 writes none.",
    )

    @property
    def rollout_prompts(self) -> int:
        """Different prompts in the largest rollout of a step."""
        step = self.batch_size * self.gradient_accumulation
        return max(1, min(step, self.rollout_batch or step) // self.num_generations)

    def faults(self) -> Iterator[Fault]:
        """Yield also groups that are not whole or do not stand alone."""
        yield from super().faults()
        step, group = self.batch_size * self.gradient_accumulation, self.num_generations
        if step % group:
            found = f"x gradient_accumulation is {step}, no multiple of num_generations, {group}"
            keys = ("batch_size", "gradient_accumulation", "num_generations")
            yield Fault(keys, found, f"make it a multiple of {group}, or change num_generations")
        if self.dynamic_sampling_rounds and self.scale_rewards == "batch":
            found = "replaces single groups, but scale_rewards: batch scales them by all"
            yield Fault(
                ("dynamic_sampling_rounds", "scale_rewards"), found, "scale by group or none"
            )


class ScoringPassConfig(Section):
    """What the scoring pass of the curriculum reads of `grpo`."""

    curriculum: CurriculumConfig | None = None
    temperature: Positive = 1.0
    max_completion_length: Count = 512


def read_source(path: Path) -> bytes:
    """Return the content of a file of terms.

    Raises:
        ConfigError: It cannot be read.
    """
    try:
        return path.read_bytes()
    except OSError as error:
        raise ConfigError(
            path, f"cannot be read ({error.strerror})", "correct `reward.file`"
        ) from None
