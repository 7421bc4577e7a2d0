"""Intervals that respect that the cases of one patient are not independent."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel

Array = NDArray[Any]


class Estimate(BaseModel):
    """A mean with its bootstrap interval.

    Attributes:
        mean: Mean over all values.
        low: Lower end of the interval; None if there are fewer than two patients.
        high: Upper end.
        n: Number of values.
        patients: Number of patients, the units that were resampled.
    """

    mean: float
    low: float | None
    high: float | None
    n: int
    patients: int


def cluster_bootstrap(
    values: Sequence[float],
    patients: Sequence[str],
    resamples: int,
    confidence: float,
    seed: int,
) -> Estimate | None:
    """Return the mean of values with a percentile interval over resampled patients.

    Patients are drawn with replacement, each with all its values (cluster bootstrap, Davison and
    Hinkley 1997, section 3.8). For a paired comparison give the differences.

    Returns:
        The estimate, or None without values.
    """
    if not values:
        return None
    names, owner = np.unique(np.asarray(patients), return_inverse=True)
    sums = np.bincount(owner, weights=np.asarray(values, dtype=float))
    counts = np.bincount(owner).astype(float)
    mean = float(sums.sum() / counts.sum())
    low = high = None
    if len(names) > 1:
        rng = np.random.default_rng([seed, len(values)])
        shares = np.full(len(names), 1 / len(names))
        drawn = rng.multinomial(len(names), shares, size=resamples)
        means = (drawn @ sums) / (drawn @ counts)
        tail = (1 - confidence) / 2
        low, high = (float(q) for q in np.quantile(means, [tail, 1 - tail]))
    return Estimate(mean=mean, low=low, high=high, n=len(values), patients=len(names))
