"""Answers of a model in memory, by transformers; training uses it too."""

from collections.abc import Sequence
from typing import Any

from medtune.models.inputs import Encoded, banned_tokens
from medtune.training.batches import prompt_batch

SAMPLING = {"do_sample": True, "temperature": 1.0, "top_k": 0, "top_p": 1.0}


def reply(tokenizer: Any, tokens: Sequence[int]) -> dict[str, Any]:
    """Return text, token count and whether the answer ended, of generated tokens."""
    ended = tokenizer.eos_token_id in tokens
    count = tokens.index(tokenizer.eos_token_id) + 1 if ended else len(tokens)
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
    import torch

    tokenizer = processor.tokenizer
    batch = prompt_batch(encoded, tokenizer.pad_token_id)
    with torch.no_grad():
        tokens = model.generate(
            **{name: value.to(model.device) for name, value in batch.items()},
            max_new_tokens=max_new_tokens,
            **(SAMPLING if sampled else {"do_sample": False}),
            num_return_sequences=copies,
            suppress_tokens=list(banned_tokens(processor)),
            pad_token_id=tokenizer.pad_token_id,
            eos_token_id=tokenizer.eos_token_id,
        )[:, batch["input_ids"].shape[1] :]
    return [reply(tokenizer, row) for row in tokens.tolist()]
