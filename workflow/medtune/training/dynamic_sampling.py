"""Dynamic sampling (DAPO, arXiv:2503.14476): groups that teach nothing are replaced by others.

Where all answers to a prompt earn the same, every advantage is 0 and so is the gradient. Such
groups are dropped, other prompts are rolled out in their place, and this is repeated a bounded
number of times. Which prompts come in follows from (seed, step, round).
"""

from collections.abc import Sequence
from itertools import chain, islice
from typing import Any

import numpy as np
import torch

from medtune.training.distributed import all_gather_object

LEFT_PADDED = ("prompt_ids", "prompt_mask")


def zero_variance(advantages: torch.Tensor, group: int) -> torch.Tensor:
    """Return (groups,) whether no answer of a group earned more than another."""
    return advantages.view(-1, group).abs().amax(dim=1) < 1e-6


def resample_prompts(
    trainer: Any, used: Sequence[str], missing: int, again: int
) -> list[dict[str, Any]]:
    """Return rows of prompts not used in this step, each repeated as often as a group is large.

    All processes return equally many, as many as the one that needs most; none if no process
    needs any, or if the data set has too few left.

    Args:
        trainer: The GRPO trainer.
        used: Ids of the prompts that this process has rolled out in this step.
        missing: Groups that this process wants to replace.
        again: Which round this is.
    """
    processes, mine = trainer.accelerator.num_processes, trainer.accelerator.process_index
    taken, wanted = set(chain(*all_gather_object(list(used)))), max(all_gather_object(missing))
    rng = np.random.default_rng([trainer.args.seed, trainer.state.global_step, again])
    order = rng.permutation(len(trainer.train_dataset)).tolist()
    shown = (trainer.train_dataset[index] for index in order)
    free = (row for row in shown if row["sample"].id not in taken)
    found = list(islice(free, wanted * processes))
    each = len(found) // processes
    rows = found[mine * each : (mine + 1) * each]
    return [row for row in rows for _ in range(trainer.num_generations)]


def replace_groups(trainer: Any, batch: dict[str, Any], fresh: dict[str, Any]) -> dict[str, Any]:
    """Return a batch of rollouts whose uninformative groups are replaced, as far as others exist.

    Args:
        trainer: The GRPO trainer.
        batch: Tensors of TRL's rollouts, a row for every answer, group after group.
        fresh: Rollouts of other prompts.
    """
    group = trainer.num_generations
    out = zero_variance(batch["advantages"], group).nonzero()[:, 0].tolist()
    come = (~zero_variance(fresh["advantages"], group)).nonzero()[:, 0].tolist()
    order = torch.arange(len(batch["advantages"]))
    for old, new in zip(out, come, strict=False):  # one of both is longer
        start = len(order) + new * group
        order[old * group : (old + 1) * group] = torch.arange(start, start + group)
    pad = trainer.processing_class.tokenizer.pad_token_id
    joined = {
        name: _joined(value, fresh[name], name, pad)[order]
        for name, value in batch.items()
        if value.dim()
    }
    tokens = trainer.accelerator.gather(joined["completion_mask"].sum()).sum()
    return joined | {"num_items_in_batch": tokens}


def _joined(first: torch.Tensor, second: torch.Tensor, name: str, pad: int) -> torch.Tensor:
    """Return rows of two batches below one another, padded on the side on which TRL pads."""
    if first.dim() == 2:
        width = max(first.shape[1], second.shape[1])
        value = pad if name.endswith("_ids") else 0
        first, second = (_padded(one, width, name in LEFT_PADDED, value) for one in (first, second))
    return torch.cat([first, second])


def _padded(rows: torch.Tensor, width: int, left: bool, value: int) -> torch.Tensor:
    gap = width - rows.shape[1]
    return torch.nn.functional.pad(rows, (gap, 0) if left else (0, gap), value=value)
