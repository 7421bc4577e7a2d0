"""Encoded prompts as batches: padded on the left, with the vision tensors of all beside them."""

from collections.abc import Sequence
from typing import Any

from medtune.models.inputs import (
    Encoded,
)


def stack_vision(encoded: Sequence[Encoded], names: Sequence[str] | None = None) -> dict[str, Any]:
    """Return the vision tensors of several prompts, one after another, images and videos apart.

    Args:
        encoded: The prompts.
        names: The tensors that are wanted; None: all.
    """
    import torch

    there = dict.fromkeys(name for one in encoded for name in one.vision)
    return {
        name: torch.cat([one.vision[name] for one in encoded if name in one.vision])
        for name in there
        if names is None or name in names
    }


def pad_left(rows: Sequence[Any], value: int) -> Any:
    """Return 1-D tensors as one (n, longest) tensor, padded on the left."""
    import torch

    return torch.nn.utils.rnn.pad_sequence(
        list(rows), batch_first=True, padding_value=value, padding_side="left"
    )


def prompt_batch(encoded: Sequence[Encoded], pad: int) -> dict[str, Any]:
    """Return model inputs for generation, padded on the left to the longest prompt."""
    import torch

    return {
        "input_ids": pad_left([one.input_ids for one in encoded], pad),
        "attention_mask": pad_left([torch.ones_like(one.input_ids) for one in encoded], 0),
        "mm_token_type_ids": pad_left([one.mm_token_type_ids for one in encoded], 0),
        **stack_vision(encoded),
    }
