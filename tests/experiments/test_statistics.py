"""Intervals and evidence hold however often one looks; formulas agree with known values and with each other."""

import math
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from roundhouse.experiments.estimate import Sums, difference
from roundhouse.experiments.sequential import (
    evidence,
    half_width,
    mixture,
    preference_evidence,
    ratio_evidence,
    units_per_arm,
)
from roundhouse.experiments.simulate import interval_of_share, simulate, simulate_alike


def test_known_values() -> None:
    assert 500 * mixture(0.05, 500) == pytest.approx(8.21, abs=0.01)
    assert preference_evidence(8, 0) == pytest.approx(28.4, abs=0.1)
    assert preference_evidence(15, 3) == pytest.approx(16.9, abs=0.1)
    assert preference_evidence(16, 2) == pytest.approx(90.2, abs=0.1)
    once, looking = units_per_arm(0.80, 0.85, 0.05, 0.8)
    assert once == 903
    assert 1.3 * once < looking < 2 * once


@given(st.floats(-2, 2), st.floats(0.01, 4), st.integers(10, 100_000), st.sampled_from([0.01, 0.05, 0.2]))
def test_the_interval_leaves_zero_out_exactly_where_the_evidence_says_so(
    estimate: float, variance: float, units: int, alpha: float
) -> None:
    rho2 = mixture(alpha, 500)
    ratio = abs(estimate) / half_width(variance, units, alpha, rho2)
    if abs(ratio - 1) > 1e-9:
        assert (ratio > 1) == (evidence(estimate, variance, units, rho2) > 1 / alpha)


def test_looking_every_50_units_names_a_false_winner_in_at_most_five_percent() -> None:
    found = simulate(Random(7), rates=(0.5, 0.5), experiments=600, most_units=3000)
    assert interval_of_share(found.decided, 600)[0] < 0.05
    assert found.decided / 600 <= 0.05


@pytest.mark.parametrize("share", [0.5, 0.1])
def test_a_skewed_metric_at_uneven_shares_names_no_more_false_winners(share: float) -> None:
    """Seconds, as log-normal as they are: by each arm's own variance it was 13 % at 90 to 10."""
    rng = Random(5)
    found = simulate_alike(rng, lambda: rng.lognormvariate(0, 1.5), share=share, experiments=300, most_units=1500)
    assert interval_of_share(found.decided, 300)[0] < 0.02
    assert found.decided / 300 <= 0.05


def test_an_arm_has_no_less_variance_than_both_have_together() -> None:
    wide, narrow = Sums(100, 100, 0, 100, 9900, 0, binary=False), Sums(10, 10, 10, 10, 10, 10, binary=False)
    found, own = difference({"": wide}, {"": narrow}, 0.05, 500), 100 / 100
    assert found is not None
    pooled = 9900 / (99 + 9)
    expected = half_width((own + pooled / 10) * 110, 110, 0.05, mixture(0.05, 500))
    assert found.interval.high - found.interval.estimate == pytest.approx(expected)


def test_a_true_difference_is_found_with_the_promised_power() -> None:
    _, each = units_per_arm(0.5, 0.6, 0.05, 0.8)
    found = simulate(Random(3), rates=(0.5, 0.6), experiments=300, most_units=each + 50, planned=2 * each)
    assert interval_of_share(found.higher, 300)[1] > 0.8
    assert found.lower == 0
    assert found.mean_units < each


def test_rates_of_nothing_and_everything_are_no_proof_by_themselves() -> None:
    none, all_of = Sums(3, 3, 0, 3, 0, 0), Sums(3, 3, 3, 3, 3, 3)
    found = difference({"": none}, {"": all_of}, 0.05, 500)
    assert found is not None
    assert found.interval.low < 0


def test_a_unit_that_comes_often_counts_as_one() -> None:
    often = Sums(units=10, m=1000, y=500, mm=100_000, yy=50_000, my=50_000)
    once = Sums(units=1000, m=1000, y=500, mm=1000, yy=500, my=500)
    narrow, wide = (difference({"": one}, {"": one}, 0.05, 500) for one in (once, often))
    assert narrow is not None
    assert wide is not None
    assert wide.interval.high > 5 * narrow.interval.high


def test_a_covariate_takes_away_what_it_explains() -> None:
    rng = Random(5)

    def arm(shift: float) -> Sums:
        total = Sums(binary=False)
        for _ in range(2000):
            x = rng.gauss(10, 3)
            y = x + shift + rng.gauss(0, 1)
            total += Sums(1, 1, y, 1, y * y, y, x, x * x, x * y, x, False)
        return total

    control, other = arm(0.0), arm(0.5)
    plain = difference({"": control}, {"": other}, 0.05, 2000)
    adjusted = difference({"": control}, {"": other}, 0.05, 2000, covariate=True)
    assert plain is not None
    assert adjusted is not None
    assert adjusted.reduced == pytest.approx(0.9, abs=0.03)
    assert adjusted.interval.low < 0.5 < adjusted.interval.high
    assert adjusted.interval.high - adjusted.interval.low < (plain.interval.high - plain.interval.low) / 2.5


def test_strata_are_compared_within_themselves() -> None:
    """Simpson's paradox: each model answers equally well in both arms, but the arms met them in other shares."""

    def sums(units: int, right: int) -> Sums:
        return Sums(units, units, right, units, right, right)

    control = {"1:good": sums(900, 810), "1:bad": sums(100, 10)}
    other = {"1:good": sums(100, 90), "1:bad": sums(900, 90)}
    found = difference(control, other, 0.05, 500)
    assert found is not None
    assert found.interval.estimate == pytest.approx(0)


class TestSampleRatio:
    def test_it_stays_quiet_under_the_planned_shares_at_every_look(self) -> None:
        rng = Random(11)
        alarms = 0
        for _ in range(300):
            counts = {"a": 0, "b": 0}
            for _ in range(40):
                hits = sum(rng.random() < 0.3 for _ in range(25))
                counts = {"a": counts["a"] + hits, "b": counts["b"] + 25 - hits}
                if ratio_evidence(counts, {"a": 0.3, "b": 0.7}) >= 20:
                    alarms += 1
                    break
        assert alarms / 300 <= 0.05

    def test_it_is_exact_for_one_unit_and_raises_the_alarm_on_a_broken_split(self) -> None:
        shares = {"a": 0.3, "b": 0.7}
        expected = sum(share * ratio_evidence({arm: 1}, shares) for arm, share in shares.items())
        assert expected == pytest.approx(1)
        assert ratio_evidence({"a": 500, "b": 700}, {"a": 0.5, "b": 0.5}) > 1000
        assert ratio_evidence({"a": 1, "b": 1}, {"a": 1.0, "b": 0.0}) == math.inf
        assert ratio_evidence({}, shares) == pytest.approx(1)


def test_rates_that_are_equal_or_none_have_no_power() -> None:
    for rates in ((0.5, 0.5), (0.5, 1.2)):
        with pytest.raises(ValueError, match="rate"):
            units_per_arm(*rates, 0.05, 0.8)
