"""Batches by a budget of tokens: rows of similar length, more of them where they are short."""

import math
from collections.abc import Iterator, Sequence

import numpy as np

from medtune.runtime.console import PROCESSES, RANK
from medtune.runtime.errors import DataError


def check_lengths(ids: Sequence[str], lengths: Sequence[int], budget: int) -> None:
    """Check that every sample fits into the budget alone.

    Raises:
        DataError: One does not; the longest is named.
    """
    longest = max(range(len(ids)), key=lambda index: lengths[index])
    if lengths[longest] > budget:
        raise DataError(
            ids[longest],
            f"takes {lengths[longest]:,} tokens, more than sft.max_tokens_per_batch ({budget:,})",
            "raise sft.max_tokens_per_batch, or show less (media.crop_to_brain, stride, tile_size)",
        )


def round_up(length: int) -> int:
    """Return a length rounded up to five significant bits: by less than one part in sixteen.

    Samples of about one length can then change places between epochs.
    """
    unit = 1 << max(0, length.bit_length() - 5)
    return -(-length // unit) * unit


def batch_sizes(bounds: Sequence[int], budget: int) -> list[int]:
    """Return how many rows each batch takes of rising lengths, none above the budget."""
    sizes, rows = [], 0
    for bound in bounds:
        if (rows + 1) * bound > budget:
            sizes.append(rows)
            rows = 0
        rows += 1
    return [*sizes, rows]


class BudgetBatches:
    """A batch sampler: every sample once per epoch, (longest row) x rows within the budget.

    The batches follow from seed and epoch alone, and there are equally many in every epoch, which
    the trainer counts on. Several processes take them in turn, as one would take them one after
    another; a process for which none is left at the end of an epoch gets the row after the last,
    which the data set must hold as a blank one.

    Args:
        lengths: Tokens of every sample, none above the budget.
        budget: Tokens of a batch, padding included.
        seed: Decides, with the epoch, who shares a batch, and the order of the batches.
        rank: Which of the processes this is.
        processes: How many there are.
    """

    def __init__(
        self,
        lengths: Sequence[int],
        budget: int,
        seed: int,
        rank: int = RANK,
        processes: int = PROCESSES,
    ) -> None:
        self.bounds = np.array([min(round_up(length), budget) for length in lengths])
        self.sizes = batch_sizes(sorted(self.bounds.tolist()), budget)
        self.seed, self.epoch = seed, 0
        self.rank, self.processes = rank, processes

    def set_epoch(self, epoch: int) -> None:
        """Choose the batches of an epoch."""
        self.epoch = epoch

    def __len__(self) -> int:
        return math.ceil(len(self.sizes) / self.processes)

    def __iter__(self) -> Iterator[list[int]]:
        """Yield the indices of the samples of each batch of this process."""
        rng = np.random.default_rng([self.seed, self.epoch])
        mixed = rng.permutation(len(self.bounds))
        rising = mixed[np.argsort(self.bounds[mixed], kind="stable")]
        batches = np.split(rising, np.cumsum(self.sizes)[:-1])
        dealt = [batches[index].tolist() for index in rng.permutation(len(batches))]
        dealt += [[len(self.bounds)]] * (len(self) * self.processes - len(dealt))
        yield from dealt[self.rank :: self.processes]
