"""Answers of a model in memory, by transformers; training uses it too."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from medtune.models.batches import prompt_batch
from medtune.models.inputs import Encoded, banned_tokens
from medtune.models.loading import end_tokens

SAMPLING = {"do_sample": True, "temperature": 1.0, "top_k": 0, "top_p": 1.0}


@dataclass(frozen=True)
class Limits:
    """What a generated answer may be.

    Attributes:
        tokens: Its longest.
        banned: Tokens that it never holds.
        ends: Tokens of which the first one ends it.
    """

    tokens: int
    banned: Sequence[int]
    ends: Sequence[int]


def reply(tokenizer: Any, tokens: Sequence[int], ends: Sequence[int]) -> dict[str, Any]:
    """Return text, token count and whether the answer ended, of generated tokens.

    Args:
        tokenizer: The model's tokenizer.
        tokens: What was generated.
        ends: The tokens that end an answer.
    """
    found = [number for number, token in enumerate(tokens, start=1) if token in ends]
    ended, count = bool(found), found[0] if found else len(tokens)
    text = tokenizer.decode(tokens[:count], skip_special_tokens=True)
    return {"text": text, "tokens": count, "ended": ended}


def generate(
    model: Any,
    processor: Any,
    encoded: Sequence[Encoded],
    max_new_tokens: int,
    sampled: bool = False,
    copies: int = 1,
) -> list[dict[str, Any]]:
    """Return text, token count and whether the answer ended, `copies` per prompt in order.

    Answers are greedy unless `sampled`, and never hold a placeholder of an image or video.
    """
    tokenizer = processor.tokenizer
    ends = end_tokens(model.generation_config, tokenizer)
    limits = Limits(max_new_tokens, banned_tokens(processor), ends)
    batch = prompt_batch(encoded, tokenizer.pad_token_id)
    return generate_batch(model, tokenizer, batch, limits, sampled, copies)


def generate_batch(
    model: Any,
    tokenizer: Any,
    batch: Mapping[str, Any],
    limits: Limits,
    sampled: bool,
    copies: int = 1,
) -> list[dict[str, Any]]:
    """Return what `generate` does, of prompts that are padded on the left."""
    import torch

    with torch.no_grad():
        tokens = model.generate(
            **{name: value.to(model.device) for name, value in batch.items()},
            max_new_tokens=limits.tokens,
            **(SAMPLING if sampled else {"do_sample": False}),
            num_return_sequences=copies,
            suppress_tokens=list(limits.banned),
            pad_token_id=tokenizer.pad_token_id,
            eos_token_id=list(limits.ends),
        )[:, batch["input_ids"].shape[1] :]
    return [reply(tokenizer, row, limits.ends) for row in tokens.tolist()]
