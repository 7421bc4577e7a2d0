"""Run-time proof that the model receives the pixels it is trained on."""

from dataclasses import replace
from pathlib import Path
from typing import Any

from medtune.models.batches import prompt_batch
from medtune.models.coordinate_format import CoordinateFormat
from medtune.models.inputs import Encoded, encode_sample
from medtune.records.sample import from_row, load_split
from medtune.runtime.console import log
from medtune.runtime.errors import VisionError
from medtune.tasks.base import Task
from medtune.training.engine import Engine

PARITY_TOKENS = 8
PARITY_BOUND = 1e-3
ROUNDED_BOUND = 0.1  # on average, where weights or activations are in bfloat16


def _next_token_logps(model: Any, encoded: Encoded, pad: int) -> Any:
    import torch

    batch = {name: value.to(model.device) for name, value in prompt_batch([encoded], pad).items()}
    with torch.no_grad():
        return model(**batch).logits[0, -1].float().log_softmax(dim=-1)


def assert_sees_video(model: Any, first: Encoded, second: Encoded, pad: int) -> float:
    """Check that two videos under the same text give different log-probabilities.

    Args:
        model: The policy.
        first: A prompt with its video.
        second: Another prompt, whose video has the same grid as the first one's.
        pad: Padding token.

    Returns:
        The largest change of a next-token log-probability.

    Raises:
        VisionError: Nothing changed: the model does not see its video.
    """
    swapped = replace(first, vision=second.vision)
    own, other = (_next_token_logps(model, one, pad) for one in (first, swapped))
    change = float((own - other).abs().max())
    if not change > 0:
        raise VisionError(
            "vision check",
            "two different videos give the same log-probabilities",
            "the pixels do not reach the model; do not train on it",
        )
    log(f"vision check: another video changes log-probabilities by up to {change:.3g}")
    return change


def assert_rollout_parity(model: Any, encoded: Encoded, pad: int) -> float:
    """Check that generation and a plain forward pass give the same log-probabilities.

    Returns:
        The largest difference over a few greedy tokens.

    Raises:
        VisionError: They differ by more than 0.001, computed in float32, or else by more than 0.1
            on average.
    """
    import torch

    batch = {name: value.to(model.device) for name, value in prompt_batch([encoded], pad).items()}
    length = batch["input_ids"].shape[1]
    with torch.no_grad():
        rollout = model.generate(
            **batch,
            max_new_tokens=PARITY_TOKENS,
            min_new_tokens=PARITY_TOKENS,
            do_sample=False,
            output_logits=True,
            return_dict_in_generate=True,
            pad_token_id=pad,
        )
    chosen = rollout.sequences[:, length:]
    sampler = torch.stack(rollout.logits)[:, 0].float().log_softmax(dim=-1)
    return _parity("rollout", model, batch, chosen, sampler.gather(1, chosen[0, :, None])[:, 0])


def assert_engine_parity(engine: Engine, model: Any, encoded: Encoded, pad: int) -> float:
    """Check that a rollout engine and a plain forward pass give the same log-probabilities.

    Returns:
        The largest difference over a few of the engine's most likely tokens.

    Raises:
        VisionError: They differ by more than 0.001, computed in float32, or else by more than 0.1
            on average.
    """
    import torch

    batch = {name: value.to(model.device) for name, value in prompt_batch([encoded], pad).items()}
    rollout = engine.most_likely(encoded, PARITY_TOKENS)
    chosen = torch.tensor([rollout.tokens], device=model.device)
    return _parity("engine", model, batch, chosen, torch.tensor(rollout.logps, device=model.device))


def _parity(name: str, model: Any, batch: dict[str, Any], chosen: Any, sampler: Any) -> float:
    """Check the learner's log-probabilities of sampled tokens against the sampler's.

    Args:
        name: Of the check.
        model: The learner.
        batch: Its inputs up to the prompt's end.
        chosen: Tokens (1, n).
        sampler: Log-probabilities (n,).
    """
    import torch

    length, grown = batch["input_ids"].shape[1], chosen.shape[1]
    assert not model.training, "dropout would make a difference"
    batch = batch | {
        "input_ids": torch.cat([batch["input_ids"], chosen], dim=1),
        "mm_token_type_ids": torch.nn.functional.pad(batch["mm_token_type_ids"], (0, grown)),
    }
    batch["attention_mask"] = torch.ones_like(batch["input_ids"])
    with torch.no_grad():
        learner = model(**batch).logits[0, length - 1 : -1].float().log_softmax(dim=-1)
    gaps = (learner.gather(1, chosen[0, :, None])[:, 0] - sampler).abs()
    gap = float(gaps.max())
    exact = model.dtype == torch.float32 and not torch.is_autocast_enabled(model.device.type)
    if gap > PARITY_BOUND if exact else float(gaps.mean()) > ROUNDED_BOUND:
        raise VisionError(
            f"{name} check",
            f"{name} and learner log-probabilities differ by {gap:.3g}",
            "rollout and update do not see the same inputs; do not train on it",
        )
    log(f"{name} check: {name} and learner log-probabilities differ by up to {gap:.3g}")
    return gap


def same_grid_pair(candidates: list[Encoded]) -> tuple[Encoded, Encoded] | None:
    """Return two prompts whose videos (or images) have one grid but different pixels, or None."""
    seen: dict[tuple[str, ...], Encoded] = {}
    for encoded in candidates:
        vision = encoded.vision
        pixels, grid = (next(n for n in vision if word in n) for word in ("pixel", "grid_thw"))
        known = seen.setdefault((grid, str(vision[grid].tolist())), encoded)
        if not known.vision[pixels].equal(vision[pixels]):
            return known, encoded
    return None


def check_vision(
    model: Any, processor: Any, task: Task, dialect: CoordinateFormat, dataset: Path
) -> None:
    """Run both checks on a few training samples of a data set folder; see the functions above.

    Call it where the model will be trained: on its device, under its autocast.
    """
    train = load_split(dataset, "train")
    samples = [from_row(dict(row)) for row in train.select(range(min(16, len(train))))]
    encoded = [
        encode_sample(processor, task.render_history(s, dialect), task.prompt(s, dialect), dataset)
        for s in samples
    ]
    pad = processor.tokenizer.pad_token_id
    pair = same_grid_pair(encoded)
    if pair:
        assert_sees_video(model, *pair, pad)
    else:
        log("vision check: skipped, no two of the first samples have videos of the same size")
    assert_rollout_parity(model, encoded[0], pad)
