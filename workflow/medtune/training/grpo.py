"""GRPO on video and images: reward, data and arguments for the trainer of `grpo_trainer`."""

from itertools import chain
from pathlib import Path
from typing import Any

from transformers import TrainerCallback, set_seed
from trl import GRPOConfig

from medtune.config.stages import GrpoStage, TrackingStage
from medtune.config.training import GrpoConfig
from medtune.dataset.mixing import mixed
from medtune.models.base_reference import base_path
from medtune.models.coordinate_format import COORDINATE_FORMATS
from medtune.models.inputs import banned_tokens, prompt_length
from medtune.models.loading import load_processor
from medtune.records.sample import checked, from_row, iterate, load_split
from medtune.rewards.base import saved_failures
from medtune.runtime.console import PROCESSES, log
from medtune.runtime.errors import ConfigError
from medtune.runtime.files import MANIFEST, check_manifest
from medtune.tasks import get_task, get_terms
from medtune.training.batches import SftCollator
from medtune.training.checks import PARITY_TOKENS
from medtune.training.collapse import collapses
from medtune.training.curriculum import within_curriculum
from medtune.training.engine import Engine, EngineSettings, VllmEngine
from medtune.training.grpo_rewards import reward_function
from medtune.training.grpo_trainer import VideoGRPOTrainer
from medtune.training.resume import is_finished
from medtune.training.rollout_server import RemoteEngine
from medtune.training.run import Progress, run_training, shared_arguments, trainable_model
from medtune.training.validation import EarlyStopping, held_out, validation_split

# What a length does not depend on, taken away so that equal ones are counted once.
SIZE_ONLY = {"path": "", "sha256": ""}


def as_prompts(rows: dict[str, list[Any]]) -> dict[str, list[Any]]:
    """Return TRL's columns for a batch of Arrow rows: the chat, and the sample behind it."""
    columns = zip(*rows.values(), strict=True)
    samples = [from_row(dict(zip(rows, values, strict=True))) for values in columns]
    prompts = [[{"role": "user", "content": sample.prompt}] for sample in samples]
    return {"prompt": prompts, "sample": samples}


def _arguments(stage: GrpoStage, processor: Any) -> GRPOConfig:
    grpo = stage.grpo
    mode = grpo.rollouts.importance_sampling_correction
    correction = {} if mode == "none" else {"vllm_importance_sampling_mode": mode}
    return GRPOConfig(
        **shared_arguments(grpo, stage.model, stage.seed, grpo.steps, grpo.num_iterations),
        lr_scheduler_type="constant_with_warmup",
        num_generations=grpo.num_generations,
        temperature=grpo.temperature,
        max_completion_length=grpo.max_completion_length,
        loss_type=grpo.loss_type,
        scale_rewards=grpo.scale_rewards,
        beta=grpo.beta,
        epsilon=grpo.epsilon,
        epsilon_high=grpo.epsilon_high,
        num_iterations=grpo.num_iterations,
        importance_sampling_level=grpo.importance_sampling,
        mask_truncated_completions=grpo.mask_truncated,
        disable_dropout=True,
        generation_kwargs={"suppress_tokens": list(banned_tokens(processor))},
        vllm_importance_sampling_correction=grpo.rollouts.importance_sampling_correction != "none",
        **correction,
    )


def engine_settings(stage: GrpoStage, processor: Any, dataset: Path) -> EngineSettings:
    """Return what a rollout engine must know; the longest prompt is found without its media."""
    task, dialect = get_task(stage.task), COORDINATE_FORMATS[stage.model.family]
    splits = (load_split(dataset, name, allow_empty=name == "val") for name in ("train", "val"))
    asked = {
        (
            task.prompt(s, dialect),
            checked(s.media[0]).model_copy(update=SIZE_ONLY),
            task.render_history(s, dialect).turns,
        )
        for s in chain.from_iterable(iterate(split) for split in splits)
    }
    longest = max(prompt_length(processor, *one) for one in asked)
    return EngineSettings(
        context=longest + max(stage.grpo.max_completion_length, PARITY_TOKENS) + 1,
        max_tokens=stage.grpo.max_completion_length,
        temperature=stage.grpo.temperature,
        banned=banned_tokens(processor),
        gpu_memory_utilization=stage.grpo.rollouts.gpu_memory_utilization,
    )


def vllm_engine(stage: GrpoStage, start: Path, dataset: Path) -> VllmEngine:
    """Return a vLLM for the rollouts of a stage; `start` is the model folder GRPO starts from."""
    settings = engine_settings(stage, load_processor(start), dataset)
    return VllmEngine(start, stage.model, settings)


def _engine(stage: GrpoStage, start: Path, dataset: Path, output: Path) -> Engine | None:
    """Return the engine that samples, or None: the learner does."""
    rollouts = stage.grpo.rollouts
    if rollouts.engine == "transformers":
        return None
    if stage.model.dtype == "bfloat16":
        log(
            "rollouts: vLLM rounds the weights it gets to bfloat16; see "
            "grpo.rollouts.importance_sampling_correction"
        )
    if rollouts.server is None:
        return vllm_engine(stage, start, dataset)
    settings = engine_settings(stage, load_processor(start), dataset)
    return RemoteEngine(rollouts.server, settings, output.with_name(f"{output.name}.rollout"))


def check_prompts(grpo: GrpoConfig, prompts: int) -> None:
    """Check that there are as many prompts as one step of all processes needs.

    A sampler that cannot fill a step yields none at all, and training would end at once.

    Args:
        grpo: The section.
        prompts: Prompts of the training split, after curriculum and mixing.

    Raises:
        ConfigError: There are fewer.
    """
    answers = grpo.batch_size * grpo.gradient_accumulation * PROCESSES
    needed = answers // grpo.num_generations
    if prompts < needed:
        raise ConfigError(
            "grpo",
            f"a step needs {needed} prompts (batch_size {grpo.batch_size} x gradient_accumulation "
            f"{grpo.gradient_accumulation} x {PROCESSES} processes / num_generations "
            f"{grpo.num_generations}), but there are {prompts}",
            "lower grpo.gradient_accumulation or grpo.batch_size, raise grpo.num_generations, or "
            "train on more samples",
        )


class CollapseWarning(TrainerCallback):  # type: ignore[misc]
    """Says when a sign of collapse first shows in the log."""

    def on_log(self, _: Any, state: Any, *__: Any, **___: Any) -> None:
        """Say what the newest log entry has added."""
        before = collapses(state.log_history[:-1])
        for finding in collapses(state.log_history):
            if finding not in before:
                log(f"warning: since step {finding.since}, {finding.text}")


def train_grpo(
    stage: GrpoStage,
    start: Path,
    dataset: Path,
    output: Path,
    difficulty: Path | None = None,
    tracking: TrackingStage | None = None,
) -> None:
    """Train the model of folder `start` on its own sampled answers and write `output`.

    Args:
        stage: The configuration.
        start: Model folder that GRPO starts from (its manifest is checked).
        dataset: Folder of the data set (its manifest is checked).
        output: Model folder; written as a whole, manifest last. It holds tables of rollouts as
            `completions/step-<step>.parquet`: step, round (above 0 where a prompt came in for
            another), id, prompt, media, text, reason (if invalid), term_<name>, reward, advantage;
            one row per completion, group after group.
        difficulty: Table of the curriculum's scoring pass, if the configuration has one.
        tracking: Where figures go besides.

    Raises:
        RewardError: A reward term failed; `<output>.failed_reward.json` says on what.
    """
    parents = [dataset / MANIFEST, start / MANIFEST]
    if stage.grpo.curriculum and difficulty:
        parents.append(difficulty)
    if is_finished(stage, output, parents):
        return
    trainer, progress = prepare_grpo(stage, start, dataset, output, difficulty)
    with saved_failures(output):
        cycle = stage.grpo.num_iterations
        run_training(trainer, progress, stage, start, parents, dataset, output, cycle, tracking)


def prepare_grpo(
    stage: GrpoStage, start: Path, dataset: Path, output: Path, difficulty: Path | None
) -> tuple[VideoGRPOTrainer, Progress]:
    """Return the trainer, ready to train, and what shows and collects its log.

    Args:
        stage: The configuration.
        start: Model folder that GRPO starts from, or that of a base model (its manifest is
            checked).
        dataset: Folder of the data set (its manifest is checked).
        output: Where the model will be written.
        difficulty: See `train_grpo`.

    Raises:
        ConfigError: There is a curriculum without its table.
    """
    set_seed(stage.seed)  # the trainer would seed too late for the adapters
    for parent in (dataset, start):
        check_manifest(parent / MANIFEST)
    train = load_split(dataset, "train")
    if stage.grpo.curriculum:
        if difficulty is None:
            raise ConfigError("grpo.curriculum", "has no table", "give --difficulty")
        train = within_curriculum(train, difficulty, stage.grpo.curriculum, stage.seed)
    train = mixed(train, stage.grpo.dataset_weights, stage.seed)
    check_prompts(stage.grpo, len(train))
    source = base_path(start)
    processor = load_processor(source)
    task, dialect = get_task(stage.task), COORDINATE_FORMATS[stage.model.family]
    collator = SftCollator(processor, task, dialect, dataset)
    terms = get_terms(task, stage.reward, stage.reward_sha256)
    progress = Progress("GRPO", stage.grpo.steps, ("reward", "entropy", "eval_reward"))
    arguments = _arguments(stage, processor)  # first: models load as they say
    trainer = VideoGRPOTrainer(
        model=trainable_model(source, stage.model, stage.grpo),
        reward_funcs=reward_function(task, terms, dialect, stage.grpo.num_generations),
        args=arguments,
        train_dataset=train.with_transform(as_prompts),
        processing_class=processor,
        encode=collator.question,
        grpo=stage.grpo,
        engine=_engine(stage, source, dataset, output),
    )
    trainer.add_callback(CollapseWarning())
    val = validation_split(dataset)
    if answers := held_out(collator, val, stage, stage.grpo.rollout_prompts):
        trainer.answers = answers
        trainer.add_callback(EarlyStopping(trainer, stage.grpo))
    return trainer, progress
