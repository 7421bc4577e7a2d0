"""Intervals and tests against closed forms, scipy and simulation."""

from itertools import product

import numpy as np
import pytest
from scipy import stats

from medtune.evaluation import statistics
from medtune.evaluation.statistics import POWER, changes, estimates, holm, wilson


def names(count: int, each: int = 1) -> list[str]:
    return [str(index) for index in range(count) for _ in range(each)]


def estimate(values, patients, resamples=1000, confidence=0.95, seed=1):
    return estimates(np.asarray(values)[:, None], patients, resamples, confidence, seed)[0]


def change(values, patients, permutations=2000, seed=1, confidence=0.95):
    table = np.asarray(values)[:, None]
    return changes(table, patients, 200, permutations, confidence, seed)[0]


def test_interval_agrees_with_the_normal_approximation_and_scipy():
    values = np.random.default_rng(0).normal(3, 2, 400)
    found = estimate(values, names(400), 4000)
    half = 1.96 * values.std(ddof=1) / 20
    assert found.mean == pytest.approx(values.mean())
    assert found.high - found.low == pytest.approx(2 * half, rel=0.06)
    reference = stats.bootstrap(
        (values,), np.mean, n_resamples=4000, method="BCa", rng=2
    ).confidence_interval
    assert found.low == pytest.approx(reference.low, abs=0.03)
    assert found.high == pytest.approx(reference.high, abs=0.03)


def test_repeated_cases_of_a_patient_add_no_certainty():
    values = np.random.default_rng(1).normal(size=60)
    once = estimate(values, names(60), 2000, 0.9)
    many = estimate(np.repeat(values, 5), names(60, 5), 2000, 0.9)
    assert many.mean == pytest.approx(once.mean)
    assert many.high - many.low == pytest.approx(once.high - once.low, rel=0.1)
    naive = estimate(np.repeat(values, 5), names(300), 2000, 0.9)
    assert naive.high - naive.low < 0.6 * (once.high - once.low)

    once, many = change(values, names(60)), change(np.repeat(values, 5), names(60, 5))
    for key in ("p", "effect", "detectable"):
        assert getattr(many, key) == pytest.approx(getattr(once, key))
    assert change(np.repeat(values, 5), names(300)).detectable < 0.6 * once.detectable


@pytest.mark.parametrize("patients", [5, 8, 12, 20, 40])
def test_intervals_cover_the_truth_as_often_as_they_say(patients):
    """In 93 to 97 of 100 trials, give or take what 1,000 trials can tell."""
    rng = np.random.default_rng(patients)
    for values, truth in (
        (rng.normal(0.5, 0.2, (patients, 1000)), 0.5),
        (rng.beta(4, 1, (patients, 1000)), 0.8),
    ):
        found = estimates(values, names(patients), 600, 0.95, 1)
        assert 0.925 <= np.mean([one.low <= truth <= one.high for one in found]) <= 0.975


def test_intervals_of_shares_are_wilson_s_and_have_a_width_at_their_ends():
    every = estimate([1.0] * 20, names(20))
    assert (every.low, every.high) == pytest.approx(wilson(1.0, 20, 0.95))
    assert every.low == pytest.approx(0.8389, abs=1e-4)
    some = estimate([1.0] * 15 + [0.0] * 5, names(20))
    scored = wilson(0.75, 19, 0.95)  # the standard error has one degree of freedom less
    assert (some.low, some.high) == pytest.approx(scored)
    # Ten cases of a patient that always agree are worth no more than one.
    alike = estimate(np.repeat([1.0] * 15 + [0.0] * 5, 10), names(20, 10))
    assert (alike.low, alike.high) == pytest.approx((some.low, some.high))


def test_scores_stay_scores_and_differences_may_be_anything():
    few = estimate([0.99, 0.2, 0.98, 0.97], names(4))
    assert few.high == 1
    assert 0 <= few.low < 0.2
    assert change([0.0] * 20, names(20)).high == 0
    assert change([0.9, 0.99, 0.5, 0.99], names(4)).high > 1


def test_columns_do_not_disturb_each_other():
    table = np.random.default_rng(3).normal(size=(40, 3))
    table[::2, 1] = np.nan
    table[:, 2] = np.nan
    patients = names(20, 2)
    first, half, none = estimates(table, patients, 500, 0.95, 1)
    assert first.model_dump() == estimate(table[:, 0], patients, 500).model_dump()
    assert half.mean == pytest.approx(table[1::2, 1].mean())
    assert (half.n, half.patients) == (20, 20)
    alone = estimate(table[1::2, 1], patients[1::2], 500)
    assert (half.low, half.high) == pytest.approx((alone.low, alone.high))
    assert none is None
    assert changes(table, patients, 100, 100, 0.95, 1)[2] is None


def test_a_metric_of_few_patients_has_an_interval_over_them():
    table = np.random.default_rng(4).normal(size=(60, 2))
    table[3:, 1] = np.nan  # many resamples hold none of the three
    few = estimates(table, names(60), 4000, 0.95, 1)[1]
    alone = estimate(table[:3, 1], names(3), 4000)
    assert (few.n, few.patients) == (3, 3)
    assert few.low < table[:3, 1].min() < table[:3, 1].max() < few.high
    assert few.high - few.low == pytest.approx(alone.high - alone.low, rel=0.5)


def test_few_patients():
    assert estimate([np.nan], ["a"]) is None
    one = estimate([0.2, 0.4], ["a", "a"])
    assert (one.mean, one.low, one.high, one.n, one.patients) == (
        *(pytest.approx(0.3), None, None, 2, 1),
    )
    lone = change([0.2, 0.4], ["a", "a"])
    assert (lone.p, lone.effect, lone.detectable) == (None, None, None)


def test_a_large_table_is_worked_on_in_blocks(monkeypatch):
    values = np.random.default_rng(5).normal(0.2, 1, 30)
    whole = change(values, names(30))
    monkeypatch.setattr(statistics, "BLOCK", 700)
    parts = change(values, names(30))
    assert parts.p == pytest.approx(whole.p, abs=0.03)
    assert (parts.low, parts.high) == pytest.approx((whole.low, whole.high), abs=0.15)


def test_p_value_agrees_with_scipy():
    rng = np.random.default_rng(6)
    for shift in (0.0, 0.3, 0.6):
        values = rng.normal(shift, 1, 25)
        reference = stats.permutation_test(
            (values, np.zeros(25)),
            lambda a, b, axis: np.mean(a - b, axis=axis),
            permutation_type="samples",
            vectorized=True,
            n_resamples=20_000,
            rng=1,
        ).pvalue
        assert change(values, names(25), 20_000).p == pytest.approx(reference, abs=0.01)


def test_p_values_of_no_difference_are_uniform_over_clusters():
    rng = np.random.default_rng(7)
    shared = np.repeat(rng.normal(size=(15, 400)), 4, axis=0)  # 400 trials, alike in a patient
    table = shared + 0.3 * rng.normal(size=shared.shape)
    p_values = [one.p for one in changes(table, names(15, 4), 100, 1000, 0.95, 1)]
    assert stats.kstest(p_values, "uniform").pvalue > 0.01
    naive = [one.p for one in changes(table, names(60), 100, 1000, 0.95, 1)]
    assert np.mean(np.array(naive) < 0.05) > 0.2


def test_no_difference_has_p_1_and_no_effect():
    for value in (0.0, 0.1):
        found = change([value] * 12, names(12))
        assert found.effect is None
        assert found.detectable is None
    assert change([0.0] * 12, names(12)).p == 1


def test_p_is_exact_of_few_patients_and_a_limit_where_no_permutation_reaches_it():
    values = [0.1, 0.3, -0.1, 0.4, 0.2]
    reached = [abs(np.dot(s, values)) >= 0.9 - 1e-9 for s in product((-1, 1), repeat=5)]
    few = change(values, names(5), 100)
    assert (few.p, few.p_is_limit) == (np.mean(reached), False)
    exact = change([0.1] * 12, names(12), 100_000)
    assert (exact.p, exact.p_is_limit) == (2 / 2**12, False)
    many = change([0.1] * 40, names(40), 1000)
    assert (many.p, many.p_is_limit) == (1 / 1001, True)


def test_holm_by_hand_and_by_its_definition():
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([]) == []
    rng = np.random.default_rng(8)
    for _ in range(20):
        p_values = rng.uniform(size=7) ** 3
        alpha = rng.uniform(0.01, 0.3)
        rejected = set()
        for rank, index in enumerate(np.argsort(p_values)):  # step down until one is kept
            if p_values[index] > alpha / (7 - rank):
                break
            rejected.add(int(index))
        corrected = holm(p_values.tolist())
        assert {i for i, p in enumerate(corrected) if p <= alpha} == rejected


def test_effect_and_detectable_difference_have_their_closed_forms():
    values = np.random.default_rng(9).normal(0.5, 2, 40)
    found = change(values, names(40))
    assert found.effect == pytest.approx(stats.ttest_1samp(values, 0).statistic / np.sqrt(40))
    factor = stats.norm.ppf(0.975) + stats.norm.ppf(POWER)
    assert found.detectable == pytest.approx(factor * stats.sem(values))
    assert change(values, names(40), confidence=0.99).detectable > found.detectable


def test_the_detectable_difference_is_found_four_times_in_five():
    rng = np.random.default_rng(10)
    noise = rng.normal(size=(60, 400))
    true = np.median([one.detectable for one in changes(noise, names(60), 100, 100, 0.95, 1)])
    found = changes(noise + true, names(60), 100, 1000, 0.95, 1)
    assert np.mean([one.p < 0.05 for one in found]) == pytest.approx(POWER, abs=0.06)
