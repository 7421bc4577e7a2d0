"""Bytes of a module's activations, found by running it on tensors without content.

The real layer runs under torch's fake tensors, forward and backward, under the same autocast as in
training; what autograd saves and what lives at once is counted. So nothing has to be derived by
hand for a family, an attention kernel or a precision (the usual closed form, Korthikanti et al.
2022, arXiv:2205.05198, is for another layer). Kernels of the CPU stand for those of the GPU, whose
workspaces are not counted.
"""

import copy
import weakref
from collections.abc import Callable
from typing import Any

import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.autograd.graph import saved_tensors_hooks
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from medtune.config.base import Section


class Activations(Section):
    """Bytes of one module.

    Attributes:
        saved: What autograd keeps from the forward to the backward pass, without parameters.
        step: The most that lives at once in forward and backward, inputs included, beside
            parameters and their gradients.
        forward: The same in a forward pass without gradients.
    """

    saved: int
    step: int
    forward: int


class LiveTensors(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts the bytes of the tensors that were made inside the block and live at once.

    Args:
        module: Its parameters were there before, and views of them are nothing new.
    """

    def __init__(self, module: Any) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.now = self.peak = 0
        self.known = {parameter.untyped_storage()._cdata for parameter in module.parameters()}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run an operator and count the storages it made."""
        result = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(result):
            if isinstance(tensor, torch.Tensor):
                self._count(tensor.untyped_storage())
        return result

    def _count(self, storage: Any) -> None:
        key, size = storage._cdata, storage.nbytes()
        if key not in self.known:
            self.known.add(key)
            self.now += size
            self.peak = max(self.peak, self.now)
            weakref.finalize(storage, self._forget, key, size)

    def _forget(self, key: int, size: int) -> None:
        self.known.discard(key)
        self.now -= size


def activation_bytes(function: Callable[[], Any], module: Any) -> tuple[int, Any]:
    """Return the bytes that autograd saves in a call, and the call's result.

    Parameters of the module are left out, and a tensor that is saved several times counts once.
    """
    own = {parameter.untyped_storage()._cdata for parameter in module.parameters()}
    found: dict[int, int] = {}

    def pack(tensor: Any) -> Any:
        storage = tensor.untyped_storage()
        if storage._cdata not in own:
            found[storage._cdata] = storage.nbytes()
        return tensor

    with saved_tensors_hooks(pack, lambda tensor: tensor):
        result = function()
    return sum(found.values()), result


def measure(
    module: Any, call: Callable[[Any], Any], bfloat16: bool, gradients: bool = True
) -> Activations:
    """Return the activations of a module.

    Args:
        module: On any device, usually meta; a copy of it is run.
        call: Makes inputs and calls the module on them; returns one tensor.
        bfloat16: Compute under autocast to bfloat16.
        gradients: Whether a backward pass is wanted at all; without, `saved` and `step` are 0.
    """
    fake = copy.deepcopy(module).train()
    with FakeTensorMode(), torch.autocast("cpu", torch.bfloat16, enabled=bfloat16):
        for part in fake.modules():
            for name, old in part.named_parameters(recurse=False):
                new = torch.nn.Parameter(torch.empty(old.shape, dtype=old.dtype), old.requires_grad)
                setattr(part, name, new)
        with torch.no_grad(), LiveTensors(fake) as living:
            call(fake)
        if not gradients:
            return Activations(saved=0, step=0, forward=living.peak)
        saved, result = activation_bytes(lambda: call(fake), fake)
        result.float().sum().backward()  # gradients are there: from now on they add up in place
        del result
        with LiveTensors(fake) as step:
            call(fake).float().sum().backward()
        return Activations(saved=saved, step=step.peak, forward=living.peak)
