"""A pass over the longest training sample before training: out of memory shows at once."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from medtune.config.stages import GrpoStage, SftStage
from medtune.config.training import GrpoConfig
from medtune.models.coordinate_format import COORDINATE_FORMATS
from medtune.models.inputs import Encoded
from medtune.records.sample import from_row, load_split
from medtune.runtime.console import PROCESSES, log
from medtune.runtime.errors import ModelError
from medtune.tasks import get_task
from medtune.training.batches import SftCollator
from medtune.training.vision_cache import shared_inputs, shared_media

# What AdamW will hold beside every trained float32 weight: two moments.
MOMENTS = 2


@contextmanager
def preserve_state(model: Any) -> Iterator[None]:
    """Let a pass leave nothing behind: no gradient, no draw of random numbers, no mode.

    Inside, memory is held as AdamW's moments will hold it, which the first step would else need
    on top of what was tried.
    """
    trained = [p for p in model.parameters() if p.requires_grad]
    training, devices = model.training, list(range(torch.cuda.device_count()))
    with torch.random.fork_rng(devices=devices):
        moments = [torch.empty_like(p) for p in trained for _ in range(MOMENTS)]
        try:
            yield
        finally:
            moments.clear()
            model.zero_grad(set_to_none=True)
            model.train(training)


@contextmanager
def explain_oom(name: str, tokens: int, section: str) -> Iterator[None]:
    """Say what is too large where memory runs out.

    Raises:
        ModelError: It ran out; the sample, its tokens and what to change are named.
    """
    try:
        yield
    except torch.OutOfMemoryError as error:
        rows = (
            "batch_size or max_tokens_per_batch"
            if section == "sft"
            else "batch_size or rollout_batch"
        )
        raise ModelError(
            name,
            f"the longest training sample ({tokens:,} tokens) does not fit into memory: {error}",
            f"lower {section}.{rows}, or set {section}.gradient_checkpointing or {section}.lora, "
            "or show less (media.stride, tile_size); `medtune plan` says what each needs",
        ) from None


def wanted(model: Any) -> bool:
    """Return whether the pass is worth its time: where a GPU may run out of memory."""
    return PROCESSES == 1 and bool(next(model.parameters()).is_cuda)


def longest_row(train: Any) -> dict[str, Any]:
    """Return the row of a split that shows the most pixels; its question is as long as others."""
    shown = [media[0] for media in train["media"]]
    volumes = [one["frames"] * one["width"] * one["height"] for one in shown]
    row: dict[str, Any] = train[volumes.index(max(volumes))]
    return row


def try_largest_batch(
    trainer: Any, stage: SftStage | GrpoStage, dataset: Path, always: bool = False
) -> None:
    """Run the largest passes of a training stage once, and leave nothing behind.

    Args:
        trainer: TRL's trainer; its model stands where it will be trained.
        stage: The configuration.
        dataset: Folder of the data set.
        always: Also where it is not `wanted`.

    Raises:
        ModelError: Memory ran out; the sample, its tokens and what to change are named.
    """
    if not (always or wanted(trainer.model)):
        log("longest sample: not tried first (that is done in one process on a GPU)")
        return
    row = longest_row(load_split(dataset, "train"))
    task, dialect = get_task(stage.task), COORDINATE_FORMATS[stage.model.family]
    collator = SftCollator(trainer.processing_class, task, dialect, dataset)
    tokens = collator.length(from_row(row))
    if isinstance(stage, SftStage):
        budget = stage.sft.max_tokens_per_batch
        rows = stage.sft.batch_size if budget is None else max(1, budget // tokens)
        with explain_oom(row["id"], tokens, "sft"):
            try_sft(trainer, collator([row] * rows))
    else:
        with explain_oom(row["id"], tokens, "grpo"):
            try_grpo(trainer, collator.question(from_row(row)), stage.grpo)
    log(f"longest sample: {tokens:,} tokens fit")


def try_sft(trainer: Any, batch: dict[str, Any]) -> None:
    """Run loss and backward pass of SFT on a batch, past the trainer's own counts and means."""
    model = trainer.model
    inputs = {name: value.to(model.device) for name, value in batch.items()}
    with preserve_state(model), trainer.accelerator.autocast():
        model.train()
        model(**inputs, fused_lm_head=True).log_probs.sum().backward()


def try_grpo(trainer: Any, encoded: Encoded, grpo: GrpoConfig) -> None:
    """Run the prefill of rollouts of one prompt, and log-probabilities and backward pass.

    The cache of the rollouts' completions is not tried.
    """
    model, completion = trainer.model, grpo.max_completion_length
    step = grpo.batch_size * grpo.gradient_accumulation
    rollouts = [n // grpo.num_generations for n in range(min(step, grpo.rollout_batch or step))]
    prompt = encoded.input_ids.to(model.device)
    types = encoded.mm_token_type_ids.to(model.device)
    trainer._media, trainer._rows = [encoded] * (max(rollouts) + 1), rollouts
    with preserve_state(model), trainer.accelerator.autocast():
        shared = shared_inputs(trainer._media, rollouts)
        vision = {name: value.to(model.device) for name, value in shared.items()}
        with torch.no_grad(), shared_media(model, trainer._media, rollouts):
            model.eval()
            model(
                input_ids=prompt.repeat(len(rollouts), 1),
                attention_mask=torch.ones_like(prompt).repeat(len(rollouts), 1),
                mm_token_type_ids=types.repeat(len(rollouts), 1),
                use_cache=True,
                logits_to_keep=1,
                **vision,
            )
        model.train()
        trainer._rows = [0] * grpo.batch_size
        answer = torch.full(
            (completion,), trainer.processing_class.tokenizer.pad_token_id, device=model.device
        )
        ids = torch.cat([prompt, answer]).repeat(grpo.batch_size, 1)
        logps, _, _ = trainer._get_per_token_logps_and_entropies(
            model, ids, torch.ones_like(ids), completion
        )
        logps.sum().backward()
    trainer._media, trainer._rows = [], []
