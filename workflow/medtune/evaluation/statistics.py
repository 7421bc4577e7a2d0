"""How sure figures are, where the cases of one patient are not independent.

All functions take a table (cases, columns) of values, NaN where a column does not apply to a case,
and the patient of every case; columns are worked on together.
"""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, field_serializer
from scipy.stats import norm

Array = NDArray[Any]
POWER = 0.8
BLOCK = 10_000_000  # numbers that are held at once


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

    @field_serializer("*")
    def _stable(self, value: Any) -> Any:
        """Leave out the last digits: they depend on the machine's linear algebra."""
        return float(f"{value:.12g}") if isinstance(value, float) else value


class Change(Estimate):
    """A mean of paired differences; what follows is None if there are fewer than two patients.

    Attributes:
        p: Two-sided p-value of `sign_flip`.
        p_holm: The same, corrected by `holm`; None before.
        effect: Cohen's d of paired values: mean over standard deviation of the patients' means
            (Cohen 1988, section 2.3.5); None if all are equal.
        detectable: Smallest difference that a test at the level of the intervals would find with a
            probability of 80 %: (z(1 - alpha / 2) + z(0.8)) standard errors (Bland 2015,
            section 18.2).
    """

    p: float | None
    p_holm: float | None = None
    effect: float | None
    detectable: float | None


class Clusters:
    """The sums and counts by patient of a table.

    Args:
        table: (cases, columns), NaN where a column does not apply.
        patients: The patient of every case.

    Attributes:
        sums: (patients, columns) sums of the values that apply.
        counts: Their numbers.
        means: (columns,) means over all values; NaN without any.
        held: (columns,) number of patients with a value.
    """

    def __init__(self, table: Array, patients: Sequence[str]) -> None:
        names, owner = np.unique(np.asarray(patients), return_inverse=True)
        applies = ~np.isnan(table)
        shape = (len(names), table.shape[1])
        self.sums, self.counts = np.zeros(shape), np.zeros(shape)
        np.add.at(self.sums, owner, np.where(applies, table, 0.0))
        np.add.at(self.counts, owner, applies)
        self.held = (self.counts > 0).sum(axis=0)
        self.means = ratio(self.sums.sum(axis=0), self.counts.sum(axis=0))

    def standard_errors(self) -> Array:
        """Return the standard errors of the means (columns,); NaN with fewer than two patients.

        By linearisation, with patients as clusters (Cochran 1977, equation 6.9).
        """
        residuals = self.sums - self.counts * np.nan_to_num(self.means)
        variance = (residuals**2).sum(axis=0) * ratio(self.held, self.held - 1)
        return np.asarray(np.sqrt(variance) / np.maximum(self.counts.sum(axis=0), 1))

    def effects(self) -> Array:
        """Return means over standard deviations of the patients' means (columns,), else NaN."""
        own = ratio(self.sums, self.counts)
        centre = ratio(np.nansum(own, axis=0), self.held)
        spread = np.sqrt(ratio(np.nansum((own - centre) ** 2, axis=0), self.held - 1))
        spread[spread < 1e-9 * np.abs(centre)] = 0.0  # all equal, but for rounding
        return ratio(centre, spread)


def ratio(above: Any, below: Any) -> Array:
    """Return a quotient; NaN where the divisor is not positive."""
    below = np.asarray(below, dtype=float)
    empty = np.full(below.shape, np.nan)
    return np.asarray(np.divide(above, below, out=empty, where=below > 0))


def blocks(rounds: int, patients: int) -> Iterator[int]:
    """Yield how many rounds to draw at once."""
    size = max(1, BLOCK // max(patients, 1))
    for start in range(0, rounds, size):
        yield min(size, rounds - start)


def resampled(count: int, resamples: int, seed: int) -> Iterator[Array]:
    """Yield how often each of `count` patients is drawn (resamples, count), in blocks."""
    rng = np.random.default_rng(seed)
    for rounds in blocks(resamples, count):
        drawn = rng.integers(count, size=(rounds, count)) + count * np.arange(rounds)[:, None]
        times = np.bincount(drawn.ravel(), minlength=rounds * count).reshape(rounds, count)
        yield times.astype(float)


def bootstrap(clusters: Clusters, resamples: int, confidence: float, seed: int) -> Array:
    """Return the percentile intervals (2, columns) of the means over resampled patients.

    Patients are drawn with replacement, each with all its values (cluster bootstrap, Davison and
    Hinkley 1997, section 3.8).
    """
    found = [
        ratio(weights @ clusters.sums, weights @ clusters.counts)
        for weights in resampled(len(clusters.sums), resamples, seed)
    ]
    tail, means = (1 - confidence) / 2, np.concatenate(found)
    some = ~np.isnan(means).any(axis=0)
    ends = np.full((2, means.shape[1]), np.nan)
    ends[:, some] = np.quantile(means[:, some], [tail, 1 - tail], axis=0)
    for column in np.flatnonzero(~some & (clusters.held > 0)):  # a resample without any value
        ends[:, column] = np.nanquantile(means[:, column], [tail, 1 - tail])
    return ends


def sign_flip(clusters: Clusters, permutations: int, seed: int) -> Array:
    """Return two-sided p-values (columns,) of paired differences, by a permutation test.

    If nothing differs, the two sides of a patient may be exchanged: all its differences change
    their sign together. The observed table counts as one of the permutations, so that p is never 0
    (Phipson and Smyth, Stat. Appl. Genet. Mol. Biol. 2010).
    """
    rng, count = np.random.default_rng(seed), len(clusters.sums)
    observed = np.abs(clusters.sums.sum(axis=0))
    least = observed - 1e-9 * np.abs(clusters.sums).sum(axis=0)  # equal, but for rounding
    reached = np.zeros(len(observed))
    for rounds in blocks(permutations, count):
        signs = 1.0 - 2.0 * rng.integers(2, size=(rounds, count))
        reached += (np.abs(signs @ clusters.sums) >= least).sum(axis=0)
    return (1 + reached) / (1 + permutations)


def holm(p_values: Sequence[float]) -> list[float]:
    """Return p-values corrected for their number (Holm, Scand. J. Stat. 1979), in their order."""
    order = np.argsort(p_values, kind="stable")
    factors = np.arange(len(order), 0, -1)
    corrected = np.empty(len(order))
    corrected[order] = np.maximum.accumulate(np.asarray(p_values)[order] * factors)
    return [float(p) for p in np.minimum(corrected, 1.0)]


def estimates(
    table: Array, patients: Sequence[str], resamples: int, confidence: float, seed: int
) -> list[Estimate | None]:
    """Return the mean of every column with its interval; None without values.

    Args:
        table: (cases, columns); NaN where a column does not apply.
        patients: The patient of every case.
        resamples: Bootstrap resamples.
        confidence: Level of the interval.
        seed: Decides the resamples.
    """
    clusters = Clusters(table, patients)
    ends = bootstrap(clusters, resamples, confidence, seed)
    return [
        Estimate(**_estimate(clusters, ends, column)) if clusters.held[column] else None
        for column in range(table.shape[1])
    ]


def _estimate(clusters: Clusters, ends: Array, column: int) -> dict[str, Any]:
    low, high = ends[:, column].tolist() if clusters.held[column] > 1 else (None, None)
    return {
        "mean": float(clusters.means[column]),
        "low": low,
        "high": high,
        "n": int(clusters.counts[:, column].sum()),
        "patients": int(clusters.held[column]),
    }


def changes(
    differences: Array,
    patients: Sequence[str],
    resamples: int,
    permutations: int,
    confidence: float,
    seed: int,
) -> list[Change | None]:
    """Return for every column of paired differences (cases, columns) what is known of its mean.

    Other arguments as those of `estimates` and `sign_flip`.
    """
    clusters = Clusters(differences, patients)
    ends = bootstrap(clusters, resamples, confidence, seed)
    p_values = sign_flip(clusters, permutations, seed)
    quantiles = norm.ppf(1 - (1 - confidence) / 2) + norm.ppf(POWER)
    least, effects = quantiles * clusters.standard_errors(), clusters.effects()
    return [
        Change(
            **_estimate(clusters, ends, column),
            p=_known(clusters, column, p_values),
            effect=_known(clusters, column, effects),
            detectable=_known(clusters, column, least),
        )
        if clusters.held[column]
        else None
        for column in range(differences.shape[1])
    ]


def _known(clusters: Clusters, column: int, values: Array) -> float | None:
    value = float(values[column])
    return None if clusters.held[column] < 2 or np.isnan(value) else value


def calibration_error(
    gaps: Array, bins: Array, patients: Sequence[str], resamples: int, confidence: float, seed: int
) -> Estimate:
    """Return the expected calibration error of forecasts, with its interval over patients.

    That is the mean over all cases of the distance, in each bin, between the mean forecast and
    the share of cases in which it came true (Naeini et al., AAAI 2015). Of few cases it is too
    large: shares differ from forecasts by chance, and every distance counts as positive.

    Args:
        gaps: Forecast minus what came true (0 or 1) of every case.
        bins: The bin of every case.
        patients: The patient of every case.
        resamples: Bootstrap resamples.
        confidence: Level of the interval.
        seed: Decides the resamples.
    """
    table = np.where(bins[:, None] == np.unique(bins), gaps[:, None], np.nan)
    clusters = Clusters(table, patients)

    def error(weights: Array) -> Array:
        distances = np.abs(weights @ clusters.sums).sum(axis=-1)
        return np.asarray(distances / (weights @ clusters.counts).sum(axis=-1))

    count, tail = len(clusters.sums), (1 - confidence) / 2
    drawn = [error(weights) for weights in resampled(count, resamples, seed)]
    low, high = np.quantile(np.concatenate(drawn), [tail, 1 - tail]).tolist()
    return Estimate(
        mean=float(error(np.ones(count))),
        low=low if count > 1 else None,
        high=high if count > 1 else None,
        n=len(gaps),
        patients=count,
    )


def wilson(share: float, count: int, confidence: float) -> tuple[float, float]:
    """Return the interval of a share of `count` trials (Wilson, JASA 1927).

    Unlike the bootstrap's, it has a width where all trials end alike.
    """
    z = float(norm.ppf((1 + confidence) / 2))
    centre = share + z**2 / (2 * count)
    half = z * np.sqrt(share * (1 - share) / count + z**2 / (4 * count**2))
    scale = 1 + z**2 / count
    return float(max(0.0, (centre - half) / scale)), float(min(1.0, (centre + half) / scale))
