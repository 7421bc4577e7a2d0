"""The same batches in several processes as in one, also at the end of an epoch.

Processes work through batches of equal size. accelerate fills the last ones up with samples it has
shown already, which then weigh double, in training and in evaluation; here they are filled up with
blank rows, which hold no label and so no part of a loss that is divided by all labels.
"""

from collections.abc import Iterator
from typing import Any

from accelerate.data_loader import SeedableRandomSampler
from torch.utils.data import Dataset, Sampler

from medtune.runtime.console import PROCESSES
from medtune.training.batches import PADDING


def filled_length(rows: int, batch_size: int) -> int:
    """Return the rows of a data set with the blank ones that `PROCESSES` batches need."""
    multiple = batch_size * PROCESSES if PROCESSES > 1 else 1
    return -(-rows // multiple) * multiple


class PaddedDataset(Dataset[dict[str, Any]]):
    """Rows, followed by blank ones, which hold `PADDING`: any index above theirs gives one.

    Args:
        rows: A data set of rows, one at least.
        batch_size: Rows per process.
    """

    def __init__(self, rows: Any, batch_size: int) -> None:
        self.rows, self.length = rows, filled_length(len(rows), batch_size)

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> dict[str, Any]:
        there = index < len(self.rows)
        row: dict[str, Any] = self.rows[index if there else 0]
        return row if there else row | {PADDING: True}


class PaddedSampler(Sampler[int]):
    """The order of an epoch in one process (accelerate's), and then the blank rows.

    Args:
        filled: The rows.
        seed: Decides, with the epoch, the order.
    """

    def __init__(self, filled: PaddedDataset, seed: int) -> None:
        self.filled = filled
        self.order = SeedableRandomSampler(filled.rows, data_seed=seed)

    def set_epoch(self, epoch: int) -> None:
        """Choose the order of an epoch."""
        self.order.set_epoch(epoch)

    def __len__(self) -> int:
        return len(self.filled)

    def __iter__(self) -> Iterator[int]:
        """Yield the indices of the epoch."""
        yield from self.order
        yield from range(len(self.filled.rows), len(self.filled))
