"""One pass of the vision tower for all that a batch shows, images and videos alike.

The models of transformers 5.17 call the tower once for images and once for videos. Where weights
are sharded, each pass gathers them, and all processes must make the same ones: a process whose
batch shows both kinds would wait for ever for one whose batch shows one.
"""

from collections.abc import Mapping, Sequence
from functools import partial
from types import MethodType
from typing import Any, Literal

Kind = Literal["image", "video"]
# Fields a processor returns beside the token ids, which every forward pass must receive: pixels,
# grid and, for Qwen2.5-VL's videos, seconds per temporal patch.
VISION_FIELDS: dict[Kind, tuple[str, ...]] = {
    "image": ("pixel_values", "image_grid_thw"),
    "video": ("pixel_values_videos", "video_grid_thw", "second_per_grid_ts"),
}
FAMILIES = ("qwen2_5_vl", "qwen3_vl")
# Pixel patches (n, values) and grids (media, 3) by kind.
ShownKinds = Mapping[Kind, tuple[Any, Any]]


def with_one_pass(model: Any) -> None:
    """Let a Qwen2.5-VL or Qwen3-VL show images and videos to its tower at once; others stay."""
    if model.config.model_type in FAMILIES:
        inner = model.model
        inner.forward, inner.see = MethodType(_forward, inner), MethodType(see, inner)


def see(inner: Any, shown: ShownKinds, **kwargs: Any) -> dict[Kind, Any]:
    """Return the features of images and videos, by kind, as the model's own methods return them.

    Args:
        inner: The model below its head.
        shown: What is shown.
        kwargs: For the tower.
    """
    computed = iter(features_of(inner, shown, **kwargs))
    return {kind: as_output([next(computed) for _ in grids]) for kind, (_, grids) in shown.items()}


def features_of(inner: Any, shown: ShownKinds, **kwargs: Any) -> list[list[Any]]:
    """Return the features of each medium, of one pass: of its tokens, and of deeper layers."""
    import torch

    pixels, grids = (torch.cat(part) for part in zip(*shown.values(), strict=True))
    # The class's own: `_forward` stands in for the instance's. A video's are computed like these.
    output = type(inner).get_image_features(inner, pixels, grids, **kwargs)
    sizes = [len(part) for part in output.pooler_output]
    layers = getattr(output, "deepstack_features", None) or []
    parts = (output.pooler_output, *(layer.split(sizes) for layer in layers))
    return [list(one) for one in zip(*parts, strict=True)]


def as_output(computed: Sequence[Sequence[Any]]) -> Any:
    """Return features of media as the models do: per medium, and per layer for the deeper ones."""
    import torch
    from transformers.models.qwen3_vl.modeling_qwen3_vl import (
        BaseModelOutputWithDeepstackFeatures as Output,
    )

    first, *deeper = zip(*computed, strict=True)
    return Output(pooler_output=first, deepstack_features=[torch.cat(layer) for layer in deeper])


def _forward(self: Any, *args: Any, **given: Any) -> Any:
    """Run the model's own forward pass, whose features all come from one call of `see`."""
    shown: dict[Kind, tuple[Any, Any]] = {
        kind: (given[pixels], given[grids])
        for kind, (pixels, grids, *_) in VISION_FIELDS.items()
        if given.get(pixels) is not None
    }
    computed: dict[Kind, Any] = {}

    def serve(kind: Kind, *_: Any, **kwargs: Any) -> Any:
        if not computed:
            computed.update(self.see(shown, **kwargs))
        return computed[kind]

    for kind in shown:
        setattr(self, f"get_{kind}_features", partial(serve, kind))
    try:
        return type(self).forward(self, *args, **given)
    finally:
        for kind in shown:
            delattr(self, f"get_{kind}_features")
