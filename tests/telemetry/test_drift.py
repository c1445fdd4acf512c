"""The test for a change: how seldom it warns of nothing, and how soon of something."""

from __future__ import annotations

from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from roundhouse.telemetry.drift import (
    ERROR,
    TTFT,
    Baseline,
    Change,
    Detector,
    DriftState,
    Rule,
    Series,
    highest_mean,
    learned,
)


def _warned_after(detector: Detector, badness: list[float]) -> int | None:
    return next((number for number, one in enumerate(badness, 1) if detector.add(one)), None)


def test_without_a_change_it_warns_no_more_often_than_promised() -> None:
    """In n requests at the very edge of the usual, at most n / every of the runs may have warned."""
    runs, length, every, random = 300, 500, 1_000, Random(1)
    warned = sum(
        _warned_after(Detector(0.1, every), [float(random.random() < 0.1) for _ in range(length)]) is not None
        for _ in range(runs)
    )
    assert warned / runs <= length / every
    assert warned > 0  # the test is not asleep


@pytest.mark.parametrize(("share", "within"), [(0.9, 30), (0.5, 60), (0.3, 200)])
def test_a_change_is_found_soon(share: float, within: int) -> None:
    random = Random(2)
    delays = [
        _warned_after(Detector(0.1, 100_000), [float(random.random() < share) for _ in range(2_000)])
        for _ in range(100)
    ]
    assert None not in delays
    assert sorted(delays)[50] <= within  # type: ignore[type-var]


def test_a_change_long_after_the_start_is_found_as_soon() -> None:
    random = Random(3)
    detector = Detector(0.1, 100_000)
    assert _warned_after(detector, [float(random.random() < 0.05) for _ in range(20_000)]) is None
    found = _warned_after(detector, [float(random.random() < 0.9) for _ in range(100)])
    assert found is not None
    assert found <= 40


def test_slower_by_less_than_is_allowed_is_not_told_and_by_more_is() -> None:
    random = Random(4)
    series = Series(TTFT, Rule(baseline=200, slower=1.25))
    changes = [series.add(random.lognormvariate(-2, 0.3)) for _ in range(200)]
    assert changes[-1] is Change.LEARNED
    assert series.baseline is not None
    assert 0.12 < series.baseline.typical < 0.15
    assert all(series.add(1.05 * random.lognormvariate(-2, 0.3)) is None for _ in range(5_000))
    found = [series.add(2 * random.lognormvariate(-2, 0.3)) for _ in range(300)]
    assert found.count(Change.DRIFTED) == 1
    assert series.state is DriftState.DRIFTED


def test_it_recovers_when_a_hundred_requests_are_as_they_were() -> None:
    series = Series(ERROR, Rule(baseline=100), Baseline(100, 0.05, 0.0))
    assert Change.DRIFTED in [series.add(1.0) for _ in range(20)]
    found = [series.add(0.0) for _ in range(200)]
    assert found.count(Change.RECOVERED) == 1
    assert series.state is DriftState.STEADY


def test_what_is_forgotten_is_learned_anew() -> None:
    series = Series("correct", Rule(baseline=100), Baseline(100, 0.05, 1.0))
    assert Change.DRIFTED in [series.add(0.0) for _ in range(30)]
    assert series.forget() is Change.FORGOTTEN
    assert [series.add(0.0) for _ in range(100)][-1] is Change.LEARNED
    assert [series.add(0.0) for _ in range(500)] == [None] * 500  # it has always been as bad as that


def test_a_score_that_falls_is_found() -> None:
    random = Random(5)
    series = Series("correct", Rule(baseline=400))
    for _ in range(400):
        series.add(float(random.random() < 0.85))
    assert not any(series.add(float(random.random() < 0.85)) for _ in range(2_000))
    assert Change.DRIFTED in [series.add(float(random.random() < 0.5)) for _ in range(300)]


def test_no_error_in_the_baseline_is_no_promise_of_none() -> None:
    baseline = learned(ERROR, [0.0] * 200, Rule())
    assert baseline.rate == pytest.approx(1 - 0.001 ** (1 / 200), abs=1e-6)  # Clopper and Pearson's bound


@given(st.lists(st.floats(0, 1), min_size=1, max_size=50))
def test_the_bound_is_above_the_mean_and_falls_with_more_values(values: list[float]) -> None:
    mean = sum(values) / len(values)
    bound = highest_mean(min(1.0, mean), len(values))
    assert mean - 1e-9 <= bound <= 1
    assert highest_mean(min(1.0, mean), 10 * len(values)) <= bound + 1e-9


@given(
    st.lists(st.floats(allow_nan=False, allow_infinity=False), min_size=1, max_size=200),
    st.sampled_from([ERROR, TTFT, "score"]),
)
def test_no_values_break_it(values: list[float], metric: str) -> None:
    series = Series(metric, Rule(baseline=20))
    for value in values:
        series.add(value)
    assert series.now is not None
    assert (series.baseline is None) == (len(values) < 20)
