"""GRPO on video: TRL's trainer, made to carry each prompt's video through every forward pass.

TRL 1.16 feeds only images to rollout, old and reference log-probabilities and update. The
subclass below encodes every prompt's video once per rollout batch, gives it to generation, and
remembers for every completion which video it belongs to, also after TRL shuffles and splits the
batch, so that every forward pass of the learner receives the same pixels.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import fmean, pstdev
from typing import Any

from transformers import set_seed
from trl import GRPOConfig, GRPOTrainer
from trl.trainer.utils import RepeatSampler

from medtune.files import MANIFEST, check_manifest
from medtune.models.base import base_path
from medtune.models.dialect import DIALECTS, Dialect
from medtune.models.inputs import Encoded, encode_sample
from medtune.models.loading import load_processor
from medtune.models.positions import correct_positions
from medtune.models.tiny import SPECIAL_TOKENS
from medtune.rewards.base import Judged, Term, saved_failures, score_all
from medtune.schema import Sample, from_row, load_split
from medtune.stages import GrpoStage
from medtune.tables import write_rows
from medtune.tasks import get_task, get_terms
from medtune.tasks.base import Task
from medtune.training.batches import pad_left
from medtune.training.checkpoints import Resumable
from medtune.training.common import Progress, run_training, shared_arguments, trainable_model
from medtune.training.optimizer import PartRates
from medtune.training.shared_videos import shared_inputs, shared_videos

ROWS = "video_rows"
LOGGED = "completion_row"


class EpochSampler(RepeatSampler):  # type: ignore[misc]
    """TRL's sampler, whose order depends on the epoch and not on how many came before it.

    A run that goes on in a later epoch would otherwise begin with the order of the first.
    """

    epoch = 0

    @classmethod
    def like(cls, sampler: RepeatSampler) -> "EpochSampler":
        """Return a sampler of the same rows, repeats and seed."""
        names = ("data_source", "mini_repeat_count", "batch_size", "repeat_count", "shuffle")
        return cls(**{name: getattr(sampler, name) for name in names}, seed=sampler.seed)

    def set_epoch(self, epoch: int) -> None:
        """Choose the order of an epoch."""
        self.epoch = epoch

    def __iter__(self) -> Any:
        """Yield the indices of the epoch."""
        self.generator.manual_seed(self.seed + 1_000_003 * self.epoch)
        return super().__iter__()


class VideoGRPOTrainer(Resumable, PartRates, GRPOTrainer):  # type: ignore[misc]
    """TRL's GRPO trainer for prompts with one video each.

    Args:
        encode: Returns the encoded prompt of a data set row.
        rollout_batch: Completions that are generated together; None: all of a step.
        completions_every: Steps between tables of completions; 0: none.
    """

    def __init__(
        self,
        *args: Any,
        encode: Callable[[Sample], Encoded],
        rollout_batch: int | None = None,
        completions_every: int = 0,
        **kwargs: Any,
    ) -> None:
        super().__init__(*args, **kwargs)
        self._encode_prompt, self._rollout_batch = encode, rollout_batch
        self._completions_every = completions_every
        self._videos: list[Encoded] = []
        self._rows: list[int] = []
        if self.ref_model is not None:
            correct_positions(self.accelerator.unwrap_model(self.ref_model))

    def _get_train_sampler(self, dataset: Any = None) -> Any:
        """Return TRL's sampler with an order that follows from seed and epoch alone."""
        return EpochSampler.like(super()._get_train_sampler(dataset))

    def _generate_and_score_completions(self, inputs: list[dict[str, Any]]) -> dict[str, Any]:
        """Encode each distinct prompt once, then roll out and score as TRL does."""
        import torch

        distinct = {row["sample"].id: row["sample"] for row in inputs}
        self._videos = [self._encode_prompt(sample) for sample in distinct.values()]
        position = {name: index for index, name in enumerate(distinct)}
        self._rows = [position[row["sample"].id] for row in inputs]
        # Adapters generate past the wrapped forward that would switch to the compute precision.
        with self.accelerator.autocast():
            output: dict[str, Any] = super()._generate_and_score_completions(inputs)
        output[ROWS] = torch.tensor(self._rows)
        self._keep_completions()
        return output

    def _keep_completions(self) -> None:
        """Write the rollouts just made as a table, if it is the turn of a step that uses them.

        The reward function has logged the rows, and TRL has gathered them from all processes
        together with the advantages, in the same order.
        """
        if not self._completions_every:
            return
        done, last = self.state.global_step, self.args.max_steps
        step = (done // self._completions_every + 1) * self._completions_every
        due = step <= min(done + self.num_iterations, last)
        if due and self.accelerator.is_main_process:
            logged = zip(self._logs["extra"][LOGGED], self._logs["advantages"], strict=True)
            rows = [{"step": step} | row | {"advantage": advantage} for row, advantage in logged]
            write_rows(self.checkpoints.table(step), rows)

    def _tokenize_prompts(self, prompts: list[Any]) -> tuple[list[list[int]], None, dict[str, Any]]:
        """Return token ids with expanded placeholders; `_generate_single_turn` adds the videos."""
        assert len(self._rows) == len(prompts)
        return [self._videos[row].input_ids.tolist() for row in self._rows], None, {}

    def _generate_single_turn(
        self, prompt_ids: list[list[int]], images: Any, fields: dict[str, Any], group: int
    ) -> tuple[list[list[int]], Any]:
        """Roll out some prompts at a time, each with its own video."""
        tokens: list[list[int]] = []
        size = self._rollout_batch or len(prompt_ids)
        model = self.accelerator.unwrap_model(self.model)
        for start in range(0, len(prompt_ids), size):
            rows = self._rows[start : start + size]
            types = [self._videos[row].types.tolist() for row in rows]
            fields = shared_inputs(self._videos, rows) | {"mm_token_type_ids": types}
            with shared_videos(model, rows):
                part, _ = super()._generate_single_turn(
                    prompt_ids[start : start + size], images, fields, group
                )
            tokens += part
        return tokens, None

    def _compute_loss(self, model: Any, inputs: dict[str, Any]) -> Any:
        """Note which videos this slice of the batch belongs to, then compute TRL's loss."""
        self._rows = inputs[ROWS].tolist()
        return super()._compute_loss(model, inputs)

    def _get_per_token_logps_and_entropies(
        self,
        model: Any,
        input_ids: Any,
        attention_mask: Any,
        logits_to_keep: int,
        batch_size: int | None = None,
        compute_entropy: bool = False,
        **_: Any,
    ) -> tuple[Any, Any, None]:
        """Return log-probabilities and entropies (n, logits_to_keep) of the completions.

        Every row is scored together with its own video; only response positions reach the head.
        """
        import torch

        logps, entropies = [], []
        size = batch_size or len(input_ids)
        for start in range(0, len(input_ids), size):
            chunk = slice(start, start + size)
            rows = self._rows[chunk]
            videos = [self._videos[row] for row in rows]
            ids, mask = input_ids[chunk], attention_mask[chunk]
            labels = ids.masked_fill(mask == 0, -100)
            labels[:, :-logits_to_keep] = -100
            shared = shared_inputs(self._videos, rows)
            vision = {name: value.to(ids.device) for name, value in shared.items()}
            with self.accelerator.autocast(), shared_videos(model, rows):
                output = model(
                    input_ids=ids,
                    attention_mask=mask,
                    mm_token_type_ids=self._token_types(videos, ids, logits_to_keep),
                    labels=labels,
                    fused_lm_head=True,
                    **vision,
                )
            logps.append(output.log_probs[:, -logits_to_keep:])
            if compute_entropy:
                entropies.append(output.entropy[:, -logits_to_keep:])
        return torch.cat(logps), torch.cat(entropies) if compute_entropy else None, None

    def _token_types(self, videos: Sequence[Encoded], ids: Any, logits_to_keep: int) -> Any:
        """Return (n, sequence) token types, and assert that placeholders stand where they say."""
        import torch

        prompt = ids.shape[1] - logits_to_keep
        types = pad_left([one.types for one in videos], 0)
        types = torch.nn.functional.pad(types, (prompt - types.shape[1], logits_to_keep))
        types = types.to(ids.device)
        placeholder = ids == self.processing_class.video_token_id
        assert bool((placeholder == (types == 2)).all()), "placeholders and videos disagree"
        return types


def reward_function(
    task: Task, terms: list[Term], dialect: Dialect, group: int
) -> Callable[..., list[float]]:
    """Return TRL's reward function.

    It logs mean and within-group deviation of every term, and a row of every completion.
    """

    def total_reward(
        completions: list[Any], sample: list[Sample], log_metric: Any, log_extra: Any, **_: Any
    ) -> list[float]:
        """Return the reward of every completion, whose `sample` holds its truth."""
        texts = [completion[0]["content"] for completion in completions]
        judged = [task.judge(text, one, dialect) for text, one in zip(texts, sample, strict=True)]
        results = score_all(terms, judged)
        for term in terms:
            values = [parts[term.name] for _, parts in results]
            groups = [values[i : i + group] for i in range(0, len(values), group)]
            log_metric(f"terms/{term.name}/mean", fmean(values))
            log_metric(f"terms/{term.name}/group_std", fmean(pstdev(g) for g in groups))
        log_extra(LOGGED, [row(one, *result) for one, result in zip(judged, results, strict=True)])
        return [total for total, _ in results]

    def row(judged: Judged, total: float, parts: dict[str, float]) -> dict[str, Any]:
        """Return a completion as a row of the table; the video is known by its path."""
        return {
            "id": judged.sample.id,
            "prompt": task.prompt(judged.sample, dialect),
            "media": judged.sample.media[0].path,
            "text": judged.text,
            "reason": judged.reason,
            **{f"term_{name}": value for name, value in parts.items()},
            "reward": total,
        }

    return total_reward


def as_prompts(rows: dict[str, list[Any]]) -> dict[str, list[Any]]:
    """Return TRL's columns for a batch of Arrow rows: the chat, and the sample behind it."""
    columns = zip(*rows.values(), strict=True)
    samples = [from_row(dict(zip(rows, values, strict=True))) for values in columns]
    prompts = [[{"role": "user", "content": sample.prompt}] for sample in samples]
    return {"prompt": prompts, "sample": samples}


def _arguments(stage: GrpoStage, processor: Any) -> GRPOConfig:
    grpo = stage.grpo
    vision_tokens = [processor.tokenizer.convert_tokens_to_ids(t) for t in SPECIAL_TOKENS[3:]]
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
        # A sampled placeholder would have no pixels.
        generation_kwargs={"suppress_tokens": vision_tokens},
    )


def train_grpo(stage: GrpoStage, start: Path, dataset: Path, output: Path) -> None:
    """Train the model of folder `start` on its own sampled answers and write `output`.

    Args:
        stage: The configuration.
        start: Model folder that GRPO starts from (its manifest is checked).
        dataset: Folder of the data set (its manifest is checked).
        output: Model folder; written as a whole, manifest last. It holds tables of rollouts as
            `completions/step-<step>.parquet`: step, id, prompt, media, text, reason (if invalid),
            term_<name>, reward, advantage; one row per completion, group after group.

    Raises:
        RewardError: A reward term failed; `<output>.failed_reward.json` says on what.
    """
    trainer, progress = grpo_trainer(stage, start, dataset)
    with saved_failures(output):
        run_training(trainer, progress, stage, start, dataset, output, stage.grpo.num_iterations)


def grpo_trainer(stage: GrpoStage, start: Path, dataset: Path) -> tuple[VideoGRPOTrainer, Progress]:
    """Return the trainer, ready to train, and what shows and collects its log.

    Args:
        stage: The configuration.
        start: Model folder that GRPO starts from, or that of a base model (its manifest is
            checked).
        dataset: Folder of the data set (its manifest is checked).
    """
    set_seed(stage.seed)  # the trainer would seed too late for the adapters
    for parent in (dataset, start):
        check_manifest(parent / MANIFEST)
    train = load_split(dataset, "train")
    source = base_path(start)
    processor = load_processor(source)
    task, dialect = get_task(stage.task), DIALECTS[stage.model.family]
    terms = get_terms(task, stage.reward, stage.reward_sha256)

    def encode(sample: Sample) -> Encoded:
        return encode_sample(processor, sample, task.prompt(sample, dialect), dataset)

    progress = Progress("GRPO", stage.grpo.steps, ("reward", "entropy"))
    trainer = VideoGRPOTrainer(
        model=trainable_model(source, stage.model, stage.grpo),
        reward_funcs=reward_function(task, terms, dialect, stage.grpo.num_generations),
        args=_arguments(stage, processor),
        train_dataset=train.with_transform(as_prompts),
        processing_class=processor,
        encode=encode,
        rollout_batch=stage.grpo.rollout_batch,
        completions_every=stage.grpo.completions_every,
    )
    return trainer, progress
