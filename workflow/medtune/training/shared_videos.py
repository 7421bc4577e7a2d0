"""One pass of the vision tower for all completions of a prompt.

The rows of a GRPO batch come in groups that share a video. The models of transformers want the
pixels once per row; here they get them once per video, and the features are handed to the rows.
Features are the same to the bit, and gradients add up over the rows as they would otherwise.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch

from medtune.models.inputs import Encoded
from medtune.training.batches import stack_vision

PIXELS, OTHERS = ("pixel_values_videos",), ("video_grid_thw", "second_per_grid_ts")


def distinct(rows: Sequence[int]) -> list[int]:
    """Return the videos of some rows, each once, in order of first appearance."""
    return list(dict.fromkeys(rows))


def shared_inputs(videos: Sequence[Encoded], rows: Sequence[int]) -> dict[str, Any]:
    """Return vision tensors for some rows: pixels of each video once, the rest for every row.

    Args:
        videos: All videos.
        rows: Which video each row shows.
    """
    once = stack_vision([videos[row] for row in distinct(rows)], PIXELS)
    return once | stack_vision([videos[row] for row in rows], OTHERS)


@contextmanager
def shared_videos(model: Any, rows: Sequence[int]) -> Iterator[None]:
    """Let a model take the tensors of `shared_inputs` for these rows, inside the block.

    Args:
        model: A Qwen2.5-VL or Qwen3-VL, wrapped or not.
        rows: Which video each row of the batch shows.
    """
    inner = next(m for m in model.modules() if "visual" in dict(m.named_children()))
    original = inner.get_video_features
    order = distinct(rows)
    position = [order.index(row) for row in rows]
    first = torch.tensor([rows.index(row) for row in order])

    def features(pixel_values_videos: Any, video_grid_thw: Any, **kwargs: Any) -> Any:
        """Compute the features of each video once, and hand them to its rows."""
        grid = video_grid_thw[first.to(video_grid_thw.device)]
        output = original(pixel_values_videos, grid, **kwargs)
        sizes = [len(part) for part in output.pooler_output]
        output.pooler_output = tuple(output.pooler_output[place] for place in position)
        layers = getattr(output, "deepstack_features", None)
        if layers is not None:
            parts = [layer.split(sizes) for layer in layers]
            output.deepstack_features = [
                torch.cat([part[place] for place in position]) for part in parts
            ]
        return output

    inner.get_video_features = features
    try:
        yield
    finally:
        del inner.get_video_features
