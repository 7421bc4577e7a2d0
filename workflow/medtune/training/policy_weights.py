"""The weights of the policy as a rollout engine takes them: whole, named as in released files."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from typing import Any

import torch


def policy_weights(
    model: Any, gathered: Callable[[list[Any]], AbstractContextManager[Any]]
) -> Iterator[tuple[str, torch.Tensor]]:
    """Yield name and value of every weight, adapters added to what they adapt.

    The sums are made beside the model: adding an adapter to weights in bfloat16 and taking it away
    again, as PEFT's `merge_adapter` does, leaves other weights behind.

    Args:
        model: A model, with adapters or not, not wrapped.
        gathered: Makes shards of some parameters whole, inside its block; all processes iterate.
    """
    from peft.tuners.tuners_utils import BaseTunerLayer

    adapted = {n: m for n, m in model.named_modules() if isinstance(m, BaseTunerLayer)}
    for name, parameter in model.named_parameters():
        if ".lora_" in name or ".original_module." in name:
            continue
        layer = adapted.get(name.removesuffix(".base_layer.weight"))
        with gathered([parameter, *(layer.parameters() if layer else [])]):
            value = parameter.detach()
            value = value.full_tensor() if hasattr(value, "full_tensor") else value
            if layer:
                delta = layer.get_delta_weight(layer.active_adapters[0])
                value = value.float() + delta.detach().float()
            yield _released_name(name), value


def _released_name(name: str) -> str:
    """Return a parameter's name without what PEFT puts around it."""
    for addition in ("base_model.model.", ".base_layer", "modules_to_save.default."):
        name = name.replace(addition, "")
    return name
