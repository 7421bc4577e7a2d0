"""How sure figures are, where the cases of one patient are not independent.

All functions take a table (cases, columns) of values, NaN where a column does not apply to a case,
and the patient of every case; columns are worked on together.
"""

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, field_serializer
from scipy.stats import norm

Array = NDArray[Any]
POWER = 0.8
BLOCK = 10_000_000  # numbers that are held at once
ROUNDING = 1e-9


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
        p_is_limit: No permutation has reached the difference: p is at most this.
        p_holm: The same, corrected by `holm` with the other endpoints of its kind; None before.
        primary: Whether it is a primary endpoint.
        effect: Cohen's d of paired values: mean over standard deviation of the patients' means
            (Cohen 1988, section 2.3.5); None if all are equal.
        detectable: Smallest difference that a test at the level of the intervals would find with a
            probability of 80 %: (z(1 - alpha / 2) + z(0.8)) standard errors (Bland 2015,
            section 18.2); None if all are equal, which says nothing of how they vary.
    """

    p: float | None
    p_is_limit: bool = False
    p_holm: float | None = None
    primary: bool = True
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
        centered: (patients, columns) what the sums would be if every value lay `means` lower.
        means: (columns,) means over all values; NaN without any.
        held: (columns,) number of patients with a value.
        binary: (columns,) whether all values are 0 or 1.
        ends: (2, columns) least and largest value that the mean can have: 0 and 1 of scores, all
            of whose values lie between them, else without an end.
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
        self.centered = self.sums - self.counts * np.nan_to_num(self.means)
        self._products = (self.centered**2, self.centered * self.counts, self.counts**2)
        self.binary = (~applies | (table == 0) | (table == 1)).all(axis=0)
        scores = (~applies | ((table >= 0) & (table <= 1))).all(axis=0)
        self.ends = np.where(scores, [[0.0], [1.0]], [[-np.inf], [np.inf]])

    def standard_errors(self) -> Array:
        """Return the standard errors of the means (columns,); NaN with fewer than two patients."""
        return np.asarray(self.drawn(np.ones((1, len(self.sums))))[1][0])

    def drawn(self, weights: Array) -> tuple[Array, Array]:
        """Return means and their standard errors over patients who count several times.

        By linearisation, with patients as clusters (Cochran 1977, equation 6.9).

        Args:
            weights: (rounds, patients) how often each counts.

        Returns:
            Both (rounds, columns); NaN where there is no value.
        """
        counts, patients = weights @ self.counts, weights @ (self.counts > 0)
        shifts = ratio(weights @ self.centered, counts)
        square, mixed, count = (weights @ product for product in self._products)
        squared = square - 2 * shifts * mixed + shifts**2 * count
        # Below this it is rounding: all values are equal.
        squared[~(squared > (ROUNDING * np.abs(self.means)) ** 2 * count)] = 0.0
        errors = np.sqrt(squared * ratio(patients, patients - 1)) / np.maximum(counts, 1)
        return self.means + shifts, np.asarray(errors)

    def effects(self) -> Array:
        """Return means over standard deviations of the patients' means (columns,), else NaN."""
        own = ratio(self.sums, self.counts)
        center = ratio(np.nansum(own, axis=0), self.held)
        spread = np.sqrt(ratio(np.nansum((own - center) ** 2, axis=0), self.held - 1))
        spread[spread < 1e-9 * np.abs(center)] = 0.0  # all equal, but for rounding
        return ratio(center, spread)


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


def bootstrap(
    clusters: Clusters, resamples: int, confidence: float, seed: int, scores: bool = True
) -> Array:
    """Return studentised bootstrap intervals (2, columns) of the means, over patients.

    Patients are drawn with replacement, each with all its values, and the distance of a resample's
    mean is measured in its own standard errors (bootstrap-t of clusters, Davison and Hinkley 1997,
    sections 3.8 and 5.2.1). Percentiles of the means themselves are too narrow for few patients.

    Args:
        clusters: The values.
        resamples: How many samples are drawn.
        confidence: Level of the intervals.
        seed: Decides the resamples.
        scores: The values are no differences: intervals of scores stay within 0..1 (see
            `Clusters.ends`), and those of shares are Wilson's.
    """
    distances = []
    for weights in resampled(len(clusters.sums), resamples, seed):
        means, errors = clusters.drawn(weights)
        distances.append(ratio(means - clusters.means, errors))
    tail, studentised = (1 - confidence) / 2, np.concatenate(distances)
    ends = np.tile(clusters.means, (2, 1))  # where all values are equal
    for column in np.flatnonzero((~np.isnan(studentised)).any(axis=0)):
        ends[:, column] -= (
            np.nanquantile(studentised[:, column], [1 - tail, tail])
            * clusters.standard_errors()[column]
        )
    if not scores:
        return ends
    ends = np.clip(ends, *clusters.ends)
    for column in np.flatnonzero(clusters.binary & (clusters.held > 1)):
        ends[:, column] = _share_interval(clusters, int(column), confidence)
    return np.asarray(ends)


def _share_interval(clusters: Clusters, column: int, confidence: float) -> tuple[float, float]:
    """Return Wilson's interval of a share, over as many trials as its standard error is worth.

    Cases of a patient that go together are worth fewer trials than there are cases; where all
    trials end alike, which says nothing of that, as many as there are patients.
    """
    share, error = float(clusters.means[column]), float(clusters.standard_errors()[column])
    patients, cases = int(clusters.held[column]), int(clusters.counts[:, column].sum())
    worth = share * (1 - share) / error**2 if error > 0 else patients
    return wilson(share, min(max(worth, 1.0), cases), confidence)


def sign_flip(clusters: Clusters, permutations: int, seed: int) -> tuple[Array, Array]:
    """Return two-sided p-values (columns,) of paired differences, and which are only limits.

    If nothing differs, the two sides of a patient may be exchanged: all its differences change
    their sign together. Of few patients every exchange is tried, and p is exact. Of many, some are
    drawn, the observed table counts as one of them, so that p is never 0 (Phipson and Smyth, Stat.
    Appl. Genet. Mol. Biol. 2010), and where none reaches it, p is at most what is returned.
    """
    count = len(clusters.sums)
    observed = np.abs(clusters.sums.sum(axis=0))
    least = observed - ROUNDING * np.abs(clusters.sums).sum(axis=0)  # equal, but for rounding
    reached = np.zeros(len(observed))
    exact = count < 63 and 2**count <= permutations
    tried = 2**count if exact else permutations
    for signs in _all_signs(count) if exact else _drawn_signs(count, permutations, seed):
        reached += (np.abs(signs @ clusters.sums) >= least).sum(axis=0)
    if exact:
        return reached / tried, np.zeros(len(observed), dtype=bool)
    return (1 + reached) / (1 + tried), reached == 0


def _all_signs(count: int) -> Iterator[Array]:
    for start in range(0, 2**count, BLOCK // max(count, 1)):
        numbers = np.arange(start, min(2**count, start + BLOCK // max(count, 1)))
        yield 1.0 - 2.0 * (numbers[:, None] >> np.arange(count) & 1)


def _drawn_signs(count: int, permutations: int, seed: int) -> Iterator[Array]:
    rng = np.random.default_rng(seed)
    for rounds in blocks(permutations, count):
        yield 1.0 - 2.0 * rng.integers(2, size=(rounds, count))


def holm(p_values: Sequence[float]) -> list[float]:
    """Return p-values corrected for their number (Holm, Scand. J. Stat. 1979), in their order."""
    order = np.argsort(p_values, kind="stable")
    factors = np.arange(len(order), 0, -1)
    corrected = np.empty(len(order))
    corrected[order] = np.maximum.accumulate(np.asarray(p_values)[order] * factors)
    return [float(p) for p in np.minimum(corrected, 1.0)]


def correct(changes: Iterable[Change]) -> None:
    """Set `p_holm` of changes: primary endpoints are corrected among themselves, and the others."""
    tested = [change for change in changes if change.p is not None]
    for primary in (True, False):
        family = [change for change in tested if change.primary is primary]
        for change, p in zip(family, holm([c.p or 0.0 for c in family]), strict=True):
            change.p_holm = p


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
    ends = bootstrap(clusters, resamples, confidence, seed, scores=False)
    p_values, limits = sign_flip(clusters, permutations, seed)
    quantiles = norm.ppf(1 - (1 - confidence) / 2) + norm.ppf(POWER)
    errors, effects = clusters.standard_errors(), clusters.effects()
    least = np.where(errors > 0, quantiles * errors, np.nan)
    return [
        Change(
            **_estimate(clusters, ends, column),
            p=_known(clusters, column, p_values),
            p_is_limit=bool(limits[column]),
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


def wilson(share: float, count: float, confidence: float) -> tuple[float, float]:
    """Return the interval of a share of `count` trials (Wilson, JASA 1927).

    Unlike the bootstrap's, it has a width where all trials end alike.
    """
    z = float(norm.ppf((1 + confidence) / 2))
    center = share + z**2 / (2 * count)
    half = z * np.sqrt(share * (1 - share) / count + z**2 / (4 * count**2))
    scale = 1 + z**2 / count
    return float(max(0.0, (center - half) / scale)), float(min(1.0, (center + half) / scale))
