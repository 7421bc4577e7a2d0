"""The weights of the policy as a rollout engine takes them: whole, named as in released files."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from typing import Any

import torch

ADDITIONS = ("base_model.model.", ".token_adapter", ".base_layer", "modules_to_save.default.")
# Adapters, what they replace, and TRL's copies for the KL.
NOT_RELEASED = (".lora_", ".trainable_tokens_", ".original_module.", ".modules_to_save.ref.")


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
        if any(part in name for part in NOT_RELEASED):
            continue
        layer = adapted.get(name.removesuffix(".base_layer.weight"))
        with gathered([parameter, *(layer.parameters() if layer else [])]):
            value = parameter.detach()
            value = value.full_tensor() if hasattr(value, "full_tensor") else value
            if layer:
                value = _adapted(value.float(), layer)
            yield _released_name(name), value


def _adapted(value: torch.Tensor, layer: Any) -> torch.Tensor:
    """Return a weight with its adapter, which is a sum or stands for some rows."""
    adapter = layer.active_adapters[0]
    if hasattr(layer, "token_indices"):
        rows = torch.tensor(layer.token_indices[adapter], device=value.device)
        return value.index_copy(0, rows, layer.trainable_tokens_delta[adapter].detach().float())
    delta: torch.Tensor = layer.get_delta_weight(adapter)
    return value + delta.detach().float()


def _released_name(name: str) -> str:
    """Return a parameter's name without what PEFT puts around it."""
    for addition in ADDITIONS:
        name = name.replace(addition, "")
    return name
