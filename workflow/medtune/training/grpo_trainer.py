"""TRL's GRPO trainer, made to carry each prompt's video or image through every forward pass.

TRL 1.16 feeds only images to rollout, old and reference log-probabilities and update. The
subclass below encodes every prompt's media once per rollout batch, gives them to generation, and
remembers for every completion which of them it belongs to, also after TRL shuffles and splits the
batch, so that every forward pass of the learner receives the same pixels.
"""

from collections.abc import Callable, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

import torch
from trl import GRPOTrainer
from trl.trainer.utils import RepeatSampler

from medtune.config.training import GrpoConfig
from medtune.models.batches import pad_left
from medtune.models.inputs import TOKEN_TYPES, Encoded
from medtune.models.positions import correct_positions
from medtune.models.vision_tower import with_one_pass
from medtune.records.sample import Sample
from medtune.runtime.tables import write_rows
from medtune.training.checkpoints import Resumable
from medtune.training.checks import assert_engine_parity
from medtune.training.distributed import all_gather_object
from medtune.training.dynamic_sampling import replace_groups, resample_prompts, zero_variance
from medtune.training.engine import Engine
from medtune.training.grpo_rewards import LOGGED
from medtune.training.optimizer import PartRates
from medtune.training.policy_weights import policy_weights
from medtune.training.sampling import answer_seeds, seeded_sampling
from medtune.training.tracking import Tracker
from medtune.training.trainable import keep_reference_exact
from medtune.training.validation import ValidationGenerations
from medtune.training.vision_cache import VisionFeatures, is_frozen, shared_inputs, shared_media

ROWS = "media_rows"


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
    """TRL's GRPO trainer for prompts with one video or image each.

    Args:
        encode: Returns the encoded prompt of a data set row.
        grpo: The configuration.
        engine: Samples the answers; None: the model itself does.

    Attributes:
        answers: What is answered at every evaluation, or None.
    """

    answers: ValidationGenerations | None = None

    def __init__(
        self,
        *args: Any,
        encode: Callable[[Sample], Encoded],
        grpo: GrpoConfig,
        engine: Engine | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(*args, **kwargs)
        keep_reference_exact(self.model)
        self.engine, self.use_vllm = engine, engine is not None  # TRL's own knows no video
        self._encode_prompt, self.grpo = encode, grpo
        self._media: list[Encoded] = []
        self._rows: list[int] = []
        self._seeds: list[int | None] = []
        self._features: VisionFeatures | None = None
        self._table: list[dict[str, Any]] = []
        self._last_loaded_step: int | None = None
        self.tracker, self.media_root = Tracker(), Path()
        if self.ref_model is not None:
            reference = self.accelerator.unwrap_model(self.ref_model)
            correct_positions(reference)
            with_one_pass(reference)

    def _get_train_sampler(self, dataset: Any = None) -> Any:
        """Return TRL's sampler with an order that follows from seed and epoch alone."""
        return EpochSampler.like(super()._get_train_sampler(dataset))

    def _generate_and_score_completions(self, inputs: list[dict[str, Any]]) -> dict[str, Any]:
        """Roll out a batch; if wanted, replace groups without a difference in reward by others."""
        self._media, self._table = [], []
        frozen = is_frozen(self.model)
        self._features = VisionFeatures(self.grpo.feature_cache_gb * 2**30) if frozen else None
        output = self._roll_out(inputs, 0)
        names = [row["sample"].id for row in inputs]
        for again in range(1, self.grpo.dynamic_sampling_rounds + 1):
            stale = zero_variance(output["advantages"], self.num_generations)
            others = resample_prompts(self, names, int(stale.sum()), again)
            if not others:
                break
            names += [row["sample"].id for row in others]
            output = replace_groups(self, output, self._roll_out(others, again))
        if self.grpo.dynamic_sampling_rounds:
            stale = zero_variance(output["advantages"], self.num_generations)
            left = self.accelerator.gather(stale.float()).mean().item()
            self._metrics["train"]["resampling/left_without_difference"].append(left)
            prompts = len(names) * self.accelerator.num_processes / self.num_generations
            self._metrics["train"]["resampling/prompts"].append(prompts)
        self._keep_completions()
        return output

    def _roll_out(self, inputs: list[dict[str, Any]], again: int) -> dict[str, Any]:
        """Encode each distinct prompt once, then roll out and score as TRL does.

        Args:
            inputs: Rows of whole groups.
            again: Which round of resampling this is; 0: the batch itself.
        """
        named = {row["sample"].id: row["sample"] for row in inputs}
        position = {name: len(self._media) + index for index, name in enumerate(named)}
        self._media += [self._encode_prompt(sample) for sample in named.values()]
        asked = [row["sample"].id for row in inputs]
        self._rows = [position[name] for name in asked]
        self._seeds = self._own_seeds(asked)
        # Adapters generate past the wrapped forward that would switch to the compute precision.
        with self.accelerator.autocast():
            output: dict[str, Any] = super()._generate_and_score_completions(inputs)
        output[ROWS] = torch.tensor(self._rows)
        self._note_completions(again, len(inputs) * self.accelerator.num_processes)
        return output

    def evaluate(self, *_: Any, **__: Any) -> dict[str, float]:
        """Log what answers to the held-out prompts are worth, greedy and sampled ones."""
        training = self.model.training
        self.model.eval()  # what is logged now is no figure of the rollouts
        figures = self.held_out_figures()
        self.log(figures)
        self.control = self.callback_handler.on_evaluate(
            self.args, self.state, self.control, figures
        )
        self.model.train(training)
        return figures

    def held_out_figures(self) -> dict[str, float]:
        """Return the figures of greedy answers, and the reward of sampled ones beside them."""
        assert self.answers is not None
        texts: list[str] = []
        mid_use = self._media, self._rows, self._seeds, self._features
        self._features = None
        # Generation draws besides, and TRL shuffles by what comes next.
        with torch.random.fork_rng(devices=list(range(torch.cuda.device_count()))):
            for batch in self.answers.batches():
                texts += self._answer_twice(batch)
                self.control = self.callback_handler.on_prediction_step(
                    self.args, self.state, self.control
                )
        self._media, self._rows, self._seeds, self._features = mid_use
        figures = self.answers.worth(texts[::2])
        return figures | {"eval_sampled_reward": self.answers.worth(texts[1::2])["eval_reward"]}

    def _answer_twice(self, samples: Sequence[Sample]) -> list[str]:
        """Return a greedy and a sampled answer to each prompt, rolled out like those of a step.

        The draws are the same at every evaluation: what differs between two is the model.
        """
        self._media = [self._encode_prompt(sample) for sample in samples]
        self._rows = [row for row in range(len(samples)) for _ in range(2)]
        drawn = answer_seeds(self.args.seed, 0, [sample.id for sample in samples])
        self._seeds = list(chain.from_iterable((None, seed) for seed in drawn))
        ids = [self._media[row].input_ids.tolist() for row in self._rows]
        with self.accelerator.autocast():
            tokens, _ = self._generate_single_turn(ids, None, {}, 2)
        texts: list[str] = self.processing_class.batch_decode(tokens, skip_special_tokens=True)
        return texts

    def _own_seeds(self, asked: list[str]) -> list[int | None]:
        """Return the seeds of this process's answers: numbered over all, as one would do it."""
        everyone = all_gather_object(asked)
        seeds = answer_seeds(self.args.seed, self.state.global_step, list(chain(*everyone)))
        before = sum(len(one) for one in everyone[: self.accelerator.process_index])
        return [*seeds[before : before + len(asked)]]

    def _note_completions(self, again: int, count: int) -> None:
        """Remember the completions just made, with their rewards and advantages.

        The reward function has logged the rows, and TRL has gathered them from all processes
        together with the advantages, in the same order.
        """
        if not self.grpo.log_completions_steps:
            return
        logged = [list(self._logs["extra"][LOGGED]), list(self._logs["advantages"])]
        for row, advantage in zip(*(one[-count:] for one in logged), strict=True):
            self._table.append({"round": again} | row | {"advantage": advantage})

    def _keep_completions(self) -> None:
        """Write the rollouts just made as a table, if it is the turn of a step that uses them."""
        every = self.grpo.log_completions_steps
        if not every:
            return
        done, last = self.state.global_step, self.args.max_steps
        step = (done // every + 1) * every
        due = step <= min(done + self.num_iterations, last)
        if due and self.accelerator.is_main_process:
            rows = [{"step": step} | row for row in self._table]
            write_rows(self.checkpoints.table(step), rows)
            self.tracker.completions(step, rows, self.media_root)

    def _tokenize_prompts(self, prompts: list[Any]) -> tuple[list[list[int]], None, dict[str, Any]]:
        """Return token ids with expanded placeholders; `_generate_single_turn` adds the media."""
        assert len(self._rows) == len(prompts)
        return [self._media[row].input_ids.tolist() for row in self._rows], None, {}

    def _generate_single_turn(
        self, prompt_ids: list[list[int]], images: Any, fields: dict[str, Any], group: int
    ) -> tuple[list[list[int]], Any]:
        """Roll out some prompts at a time, each with its own video or image."""
        if self.engine is not None:
            return self._roll_out_elsewhere(self.engine)
        tokens: list[list[int]] = []
        size = self.grpo.rollout_batch or len(prompt_ids)
        model = self.accelerator.unwrap_model(self.model)
        for start in range(0, len(prompt_ids), size):
            rows = self._rows[start : start + size]
            types = [self._media[row].mm_token_type_ids.tolist() for row in rows]
            fields = shared_inputs(self._media, rows) | {"mm_token_type_ids": types}
            seeds = self._seeds[start : start + size]
            with (
                shared_media(model, self._media, rows, self._features),
                seeded_sampling(model, seeds, self.temperature),
            ):
                part, _ = super()._generate_single_turn(
                    prompt_ids[start : start + size], images, fields, group
                )
            tokens += part
        return tokens, None

    def _roll_out_elsewhere(self, engine: Engine) -> tuple[list[list[int]], list[list[float]]]:
        """Hand the engine the weights of this step, if it has others, and let it roll out."""
        if self._last_loaded_step != self.state.global_step:
            self._load_engine(engine)
            if self._last_loaded_step is None:
                pad = self.processing_class.tokenizer.pad_token_id
                self.model.eval()
                assert_engine_parity(engine, self.model, self._media[self._rows[0]], pad)
                self.model.train()
            self._last_loaded_step = self.state.global_step
        rollouts = engine.generate([self._media[row] for row in self._rows], self._seeds)
        return [one.tokens for one in rollouts], [one.logps for one in rollouts]

    def _load_engine(self, engine: Engine) -> None:
        """Hand the engine the weights of this step."""
        model = self.accelerator.unwrap_model(self.model)
        engine.load(policy_weights(model, self._dist.gather_params))

    def _compute_loss(self, model: Any, inputs: dict[str, Any]) -> Any:
        """Note which media this slice of the batch belongs to, then compute TRL's loss."""
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

        Every row is scored together with its own media; only response positions reach the head.
        """
        logps, entropies = [], []
        size = batch_size or len(input_ids)
        for start in range(0, len(input_ids), size):
            chunk = slice(start, start + size)
            rows = self._rows[chunk]
            ids, mask = input_ids[chunk], attention_mask[chunk]
            labels = ids.masked_fill(mask == 0, -100)
            labels[:, :-logits_to_keep] = -100
            shared = shared_inputs(self._media, rows)
            vision = {name: value.to(ids.device) for name, value in shared.items()}
            types = self._token_types([self._media[row] for row in rows], ids, logits_to_keep)
            with (
                self.accelerator.autocast(),
                shared_media(model, self._media, rows, self._features),
            ):
                output = model(
                    input_ids=ids,
                    attention_mask=mask,
                    mm_token_type_ids=types,
                    labels=labels,
                    fused_lm_head=True,
                    **vision,
                )
            logps.append(output.log_probs[:, -logits_to_keep:])
            if compute_entropy:
                entropies.append(output.entropy[:, -logits_to_keep:])
        return torch.cat(logps), torch.cat(entropies) if compute_entropy else None, None

    def _token_types(self, media: Sequence[Encoded], ids: Any, logits_to_keep: int) -> Any:
        """Return (n, sequence) token types, and assert that placeholders stand where they say."""
        prompt = ids.shape[1] - logits_to_keep
        types = pad_left([one.mm_token_type_ids for one in media], 0)
        types = torch.nn.functional.pad(types, (prompt - types.shape[1], logits_to_keep))
        types = types.to(ids.device)
        for kind, number in TOKEN_TYPES.items():
            placeholder = ids == getattr(self.processing_class, f"{kind}_token_id")
            assert bool((placeholder == (types == number)).all()), "placeholders and media disagree"
        return types
