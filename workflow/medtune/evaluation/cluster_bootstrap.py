"""How sure figures of a whole data set are that are made from sums and are no means of answers.

F1, BLEU or average precision of a data set follow from what its answers add up to (true positives,
shared n-grams, ...). So they follow for any resampled patients, without a look at the answers: a
patient who is drawn twice counts twice in every sum.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.stats import norm
from scipy.stats import t as student

from medtune.config.evaluation import IntervalsConfig
from medtune.evaluation.statistics import (
    POWER,
    Change,
    Estimate,
    blocks,
    ratio,
    resampled,
)

Array = NDArray[Any]
# Sums (..., columns) -> figures (..., names), NaN where there is none.
Value = Callable[[Array], Array]


class Sums(NamedTuple):
    """What the answers of a model add up to.

    Attributes:
        rows: (patients, columns) sums, of every patient of the data set in one order.
        held: (patients,) number of answers.
    """

    rows: Array
    held: Array

    @property
    def counts(self) -> dict[str, int]:
        """`n`, the number of answers, and of `patients` that have any."""
        return {"n": int(self.held.sum()), "patients": int((self.held > 0).sum())}


def pooled(sums: Sums, value: Value, config: IntervalsConfig, seed: int) -> list[Estimate | None]:
    """Return the figures with intervals over resampled patients, see `_ends`.

    The figures over a resample in which there are none are left out. None: there is no figure.

    Args:
        sums: What is pooled.
        value: Makes the figures.
        config: Number of resamples, and level.
        seed: Decides the resamples, the same for all models.
    """
    own, found = sums.rows[sums.held > 0], value(sums.rows.sum(axis=0))
    drawn = [value(w @ own) for w in resampled(len(own), config.resamples, seed)]
    ends = _ends(np.concatenate(drawn), config.confidence, len(own))
    return [
        None if np.isnan(mean) else Estimate(mean=float(mean), low=low, high=high, **sums.counts)
        for mean, (low, high) in zip(found, ends, strict=True)
    ]


def pooled_changes(
    better: Sums, worse: Sums, value: Value, config: IntervalsConfig, seed: int
) -> list[Change | None]:
    """Return what is known of the differences of figures over the same questions.

    Intervals are over patients, resampled alike for both. p is of a permutation test: if nothing
    differs, the two sides of a patient may be exchanged (see `statistics.sign_flip`, which is this
    for means). `detectable` is as in `Change`, from the spread of the resampled differences; a
    figure that is no mean has no standardized effect.

    Args:
        better: One side.
        worse: The other, of the same patients and questions.
        value: Makes the figures.
        config: Number of resamples and permutations, and level.
        seed: Decides both.
    """
    some = better.held > 0
    first, second = better.rows[some], worse.rows[some]
    observed = value(first.sum(axis=0)) - value(second.sum(axis=0))
    drawn = np.concatenate(
        [
            value(w @ first) - value(w @ second)
            for w in resampled(len(first), config.resamples, seed)
        ]
    )
    ends = _ends(drawn, config.confidence, len(first))
    p_values = _exchanged(first, second, value, observed, config.permutations, seed)
    quantiles = norm.ppf(1 - (1 - config.confidence) / 2) + norm.ppf(POWER)
    several, found = len(first) > 1, []
    for column, mean in enumerate(observed.tolist()):
        spread = drawn[~np.isnan(drawn[:, column]), column]
        known = several and len(spread) > 1
        change = Change(
            mean=mean,
            low=ends[column][0],
            high=ends[column][1],
            p=float(p_values[column]) if several else None,
            effect=None,
            detectable=float(quantiles * spread.std(ddof=1)) if known else None,
            **better.counts,
        )
        found.append(None if np.isnan(mean) else change)
    return found


def _exchanged(
    first: Array, second: Array, value: Value, observed: Array, permutations: int, seed: int
) -> Array:
    """Return two-sided p-values (names,): patients' sides are exchanged at random."""
    rng, reached = np.random.default_rng(seed), np.zeros(observed.shape)
    middle, half = (first + second).sum(axis=0) / 2, (first - second) / 2
    for rounds in blocks(permutations, len(first)):
        shift = (1.0 - 2.0 * rng.integers(2, size=(rounds, len(first)))) @ half
        differences = np.abs(value(middle + shift) - value(middle - shift))
        # Equal, but for rounding; where a side has no figure, it counts as reached.
        reached += (~(differences < np.abs(observed) - 1e-9)).sum(axis=0)
    return (1 + reached) / (1 + permutations)


def _ends(drawn: Array, confidence: float, patients: int) -> list[tuple[float | None, ...]]:
    """Return the ends of the interval of each column of resampled figures.

    Percentiles, further out for few patients: resampling spreads by (n - 1) / n too little and
    knows nothing of Student's tails (expanded percentiles, Hesterberg, Am. Stat. 2015, section 5).
    """
    found: list[tuple[float | None, ...]] = []
    if patients < 2:
        return [(None, None)] * drawn.shape[1]
    reach = student.ppf((1 + confidence) / 2, patients - 1)
    tail = float(norm.cdf(-reach * np.sqrt(patients / (patients - 1))))
    for column in drawn.T:
        some = column[~np.isnan(column)]
        if len(some):
            found.append(tuple(np.quantile(some, [tail, 1 - tail]).tolist()))
        else:
            found.append((None, None))
    return found


def mean_of(sums: Array) -> Array:
    """Return the means, of sums of values and of their number: (..., n + 1) -> (..., n)."""
    values = sums[..., :-1]
    return ratio(values, np.broadcast_to(sums[..., -1:], values.shape))


def dumped(names: Sequence[str], found: Sequence[Estimate | None]) -> Mapping[str, Any]:
    """Return estimates by name, as they are written; None where there is no figure."""
    return {name: one.model_dump() if one else None for name, one in zip(names, found, strict=True)}
