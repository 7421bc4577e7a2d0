"""One pass of the vision tower for all completions of a prompt.

The rows of a GRPO batch come in groups that share a video or an image. The models of transformers
want the pixels once per row; here they get them once per group, and the features are handed to the
rows. Features are the same to the bit, and gradients add up over the rows as they would otherwise.
Where nothing of the tower is trained, features are kept for the next pass over the same rollouts.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch

from medtune.models.inputs import VISION_FIELDS, Encoded
from medtune.training.batches import stack_vision

PIXELS = tuple(fields[0] for fields in VISION_FIELDS.values())
OTHERS = tuple(name for fields in VISION_FIELDS.values() for name in fields[1:])


def distinct(rows: Sequence[int]) -> list[int]:
    """Return the media of some rows, each once, in order of first appearance."""
    return list(dict.fromkeys(rows))


def shared_inputs(media: Sequence[Encoded], rows: Sequence[int]) -> dict[str, Any]:
    """Return vision tensors for some rows: pixels of each medium once, the rest for every row.

    Args:
        media: All prompts with their media.
        rows: Which of them each row shows.
    """
    once = stack_vision([media[row] for row in distinct(rows)], PIXELS)
    return once | stack_vision([media[row] for row in rows], OTHERS)


class Features:
    """Features of a frozen vision tower, by prompt, up to a limit of memory.

    Args:
        limit: Bytes.
    """

    def __init__(self, limit: float) -> None:
        self.limit, self.known = limit, dict[int, list[Any]]()

    def keep(self, row: int, parts: list[Any]) -> None:
        """Keep a prompt's features, if there is room."""
        held = [part for kept in (*self.known.values(), parts) for part in kept]
        if sum(part.nbytes for part in held) <= self.limit:
            self.known[row] = [part.detach() for part in parts]


def is_frozen(model: Any) -> bool:
    """Return whether no parameter of the vision tower and its projector is trained."""
    return not any(p.requires_grad for n, p in model.named_parameters() if "visual." in n)


@contextmanager
def shared_media(
    model: Any, media: Sequence[Encoded], rows: Sequence[int], features: Features | None = None
) -> Iterator[None]:
    """Let a model take the tensors of `shared_inputs` for these rows, inside the block.

    Args:
        model: A Qwen2.5-VL or Qwen3-VL, wrapped or not.
        media: All prompts with their media.
        rows: Which of them each row of the batch shows.
        features: Of a frozen tower: those known are taken, others are kept.
    """
    inner = next(m for m in model.modules() if "visual" in dict(m.named_children()))
    original = inner.get_image_features  # both families compute a video's features like this too
    for kind in VISION_FIELDS:
        own = [row for row in rows if media[row].kind == kind]
        setattr(inner, f"get_{kind}_features", _once_each(original, own, features))
    try:
        yield
    finally:
        for kind in VISION_FIELDS:
            delattr(inner, f"get_{kind}_features")


def _once_each(
    original: Callable[..., Any], rows: Sequence[int], features: Features | None
) -> Callable[..., Any]:
    """Return a function that computes the features of each medium once and serves all its rows."""
    order = distinct(rows)
    first = torch.tensor([rows.index(row) for row in order])

    def serve(pixels: Any, grid: Any, **kwargs: Any) -> Any:
        """Take the pixels of every medium and the grids of every row; serve the rows."""
        if features and all(row in features.known for row in order):
            return _output({row: features.known[row] for row in order}, rows)
        output = original(pixels, grid[first.to(grid.device)], **kwargs)
        sizes = [len(part) for part in output.pooler_output]
        layers = getattr(output, "deepstack_features", None) or []
        split = [output.pooler_output, *(layer.split(sizes) for layer in layers)]
        computed = {row: [layer[n] for layer in split] for n, row in enumerate(order)}
        if features:
            for row, parts in computed.items():
                features.keep(row, parts)
        return _output(computed, rows)

    return serve


def _output(computed: dict[int, list[Any]], rows: Sequence[int]) -> Any:
    """Return features as the models do: per row, and per layer for the deeper ones."""
    from transformers.models.qwen3_vl.modeling_qwen3_vl import (
        BaseModelOutputWithDeepstackFeatures as Output,
    )

    layers = range(1, len(computed[rows[0]]))
    return Output(
        pooler_output=tuple(computed[row][0] for row in rows),
        deepstack_features=[torch.cat([computed[row][n] for row in rows]) for n in layers],
    )
