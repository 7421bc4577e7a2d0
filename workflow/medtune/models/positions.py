"""Rotary positions of Qwen2.5-VL as its authors and vLLM compute them.

transformers 5.17 to 5.23 let the text after a video begin at max(height, width) of the grid
instead of after the largest position, time included, and 5.17 truncates the seconds per temporal
patch to an integer, so that more than 2 frames per second lose their time axis. Both change the
log-probabilities of a released model. tests/test_upstream.py tells when upstream computes the same.
"""

import itertools
from types import MethodType
from typing import Any

IMAGE, VIDEO = 1, 2


def vision_positions(grid: tuple[int, int, int], merge: int, interval: float, start: int) -> Any:
    """Return (3, n) positions (time, row, column) of one image or video.

    Args:
        grid: Patches (t, rows, columns), before merging.
        merge: Patches per token and side.
        interval: Positions per temporal patch: tokens per second x seconds per patch.
        start: First position.
    """
    import torch

    t, rows, columns = grid[0], grid[1] // merge, grid[2] // merge
    time = (torch.arange(t) * interval).long()
    axes = torch.meshgrid(time, torch.arange(rows), torch.arange(columns), indexing="ij")
    return torch.stack([axis.flatten() for axis in axes]) + start


def get_rope_index(
    self: Any,
    input_ids: Any,
    mm_token_type_ids: Any,
    image_grid_thw: Any = None,
    video_grid_thw: Any = None,
    second_per_grid_ts: Any = None,
    attention_mask: Any = None,
    **_: Any,
) -> tuple[Any, Any]:
    """Replace `Qwen2_5_VLModel.get_rope_index`: same arguments and shapes.

    Returns:
        Positions (3, batch, sequence), 0 at padding, and (batch, 1) offsets of the tokens that
        follow. Text counts up by one in all axes; what follows a video starts after its largest
        position (arXiv:2409.12191, section 2.1).
    """
    import torch

    vision = self.config.vision_config
    grids = {
        IMAGE: iter([] if image_grid_thw is None else image_grid_thw.tolist()),
        VIDEO: iter([] if video_grid_thw is None else video_grid_thw.tolist()),
    }
    seconds = itertools.repeat(1.0) if second_per_grid_ts is None else iter(second_per_grid_ts)
    shown = torch.ones_like(input_ids) if attention_mask is None else attention_mask
    positions = torch.zeros(3, *input_ids.shape, dtype=torch.long, device=input_ids.device)
    deltas = []
    for row in range(input_ids.shape[0]):
        keep = shown[row].bool()
        parts, start = [], 0
        for kind, run in itertools.groupby(mm_token_type_ids[row][keep].tolist()):
            if kind in (IMAGE, VIDEO):
                per_patch = float(next(seconds)) if kind == VIDEO else 1.0
                interval = vision.tokens_per_second * per_patch
                part = vision_positions(
                    next(grids[kind]), vision.spatial_merge_size, interval, start
                )
            else:
                part = torch.arange(len(list(run))).expand(3, -1) + start
            parts.append(part)
            start = int(part.max()) + 1
        positions[:, row, keep] = torch.cat(parts, dim=1).to(positions.device)
        deltas.append(start - int(keep.sum()))
    return positions, torch.tensor(deltas, device=input_ids.device).unsqueeze(1)


def correct_positions(model: Any) -> None:
    """Give a Qwen2.5-VL model the positions above; other families are left as they are."""
    if model.config.model_type == "qwen2_5_vl":
        base = model.model
        base.get_rope_index = MethodType(get_rope_index, base)
