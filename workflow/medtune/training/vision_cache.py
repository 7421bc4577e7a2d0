"""One pass of the vision tower for all completions of a prompt.

The rows of a GRPO batch come in groups that share a video or an image. The models of transformers
want the pixels once per row; here they get them once per group, and the features are handed to the
rows. Features are the same to the bit, and gradients add up over the rows as they would otherwise.
Where nothing of the tower is trained, features are kept for the next pass over the same rollouts.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

from medtune.models.batches import stack_vision
from medtune.models.inputs import Encoded
from medtune.models.vision_tower import VISION_FIELDS, Kind, ShownKinds, as_output, features_of
from medtune.training.distributed import all_gather_object

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


class VisionFeatures:
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
    model: Any,
    media: Sequence[Encoded],
    rows: Sequence[int],
    features: VisionFeatures | None = None,
) -> Iterator[None]:
    """Let a model take the tensors of `shared_inputs` for these rows, inside the block.

    Args:
        model: A Qwen2.5-VL or Qwen3-VL of `load_model`, wrapped or not.
        media: All prompts with their media.
        rows: Which of them each row of the batch shows.
        features: Of a frozen tower: those known are taken, others are kept.
    """
    inner = next(m for m in model.modules() if "visual" in dict(m.named_children()))
    own = {kind: [row for row in rows if media[row].kind == kind] for kind in VISION_FIELDS}
    plain, inner.see = inner.see, partial(_see_once_each, inner, own, features)
    try:
        yield
    finally:
        inner.see = plain


def _see_once_each(
    inner: Any,
    own: Mapping[Kind, Sequence[int]],
    features: VisionFeatures | None,
    shown: ShownKinds,
    **kwargs: Any,
) -> dict[Kind, Any]:
    """Take the pixels of every medium and the grids of every row; return features of every row.

    Either all processes take what they have kept, or all compute: with shards of the weights, one
    that computed alone would wait for the others.
    """
    order = [row for kind in shown for row in distinct(own[kind])]
    known = features.known if features else {}
    if features and all(all_gather_object(all(row in known for row in order))):
        computed = {row: known[row] for row in order}
    else:
        once = {kind: _once(own[kind], *given) for kind, given in shown.items()}
        computed = dict(zip(order, features_of(inner, once, **kwargs), strict=True))
        if features:
            for row, parts in computed.items():
                features.keep(row, parts)
    return {kind: as_output([computed[row] for row in own[kind]]) for kind in shown}


def _once(rows: Sequence[int], pixels: Any, grids: Any) -> tuple[Any, Any]:
    """Return the pixels of media, and of the grids of all rows those of each medium."""
    return pixels, grids[[rows.index(row) for row in distinct(rows)]]
