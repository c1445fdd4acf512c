"""The test for a change: how seldom it warns of nothing, and how soon of something."""

from __future__ import annotations

from random import Random

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from roundhouse.telemetry.drift import (
    ERROR,
    TPOT,
    TTFT,
    Baseline,
    Change,
    Detector,
    DriftState,
    Rule,
    Series,
    learned,
)
from roundhouse.telemetry.usual import Sample, highest_mean, stratum_of, usual_of


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
    assert 0.12 < (series.usual or 0) < 0.15
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
    baseline = learned([0.0] * 200, ERROR)
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
@example([0.0] * 20, ERROR)
def test_no_values_break_it(values: list[float], metric: str) -> None:
    series = Series(metric, Rule(baseline=20))
    for value in values:
        series.add(value)
    assert series.now is not None
    assert (series.baseline is None) == (len(values) < 20)


def _first(random: Random, tokens: float) -> float:
    """A prefill: a little for itself, and half a millisecond a token."""
    return (0.03 + 5e-4 * tokens) * random.lognormvariate(0, 0.25)


def _fed(series: Series, random: Random, lengths: list[int], slower: float = 1.0) -> list[Change | None]:
    return [series.add(slower * _first(random, n), n, n) for n in lengths]


def test_longer_prompts_are_no_slower_target() -> None:
    """The mix shifts from short to long ones, into lengths that were rare and into such as had never been seen."""
    random = Random(6)
    short = [random.randint(100, 200) for _ in range(900)]
    mixed = [random.choice((random.randint(100, 200), random.randint(1100, 1900))) for _ in range(900)]
    series = Series(TTFT, Rule())
    assert Change.DRIFTED not in _fed(series, random, short + mixed)
    assert Change.DRIFTED not in _fed(series, random, [random.randint(1100, 4000) for _ in range(3_000)])
    assert series.state is DriftState.STEADY
    assert series.now == pytest.approx(series.usual, rel=0.25)  # of the very same lengths


def test_a_slower_target_is_found_whatever_is_asked_and_though_shorter_prompts_hide_it() -> None:
    random = Random(7)
    series = Series(TTFT, Rule())
    _fed(series, random, [random.choice((150, 1500)) + random.randint(-40, 40) for _ in range(1_000)])
    found = _fed(series, random, [random.randint(110, 190) for _ in range(300)], slower=2.0)
    assert Change.DRIFTED in found
    assert (series.now or 0) < 0.3  # less than the long ones had always taken


def test_an_unknown_length_is_as_it_was_without() -> None:
    random = Random(8)
    series = Series(TPOT, Rule())
    assert not any(series.add(random.lognormvariate(-4, 0.2)) is Change.DRIFTED for _ in range(2_000))
    assert Change.DRIFTED in [series.add(2 * random.lognormvariate(-4, 0.2)) for _ in range(100)]


def test_short_answers_of_few_and_so_uneven_tokens_are_no_slower_target() -> None:
    random = Random(9)

    def per_token(tokens: int) -> float:
        return sum(0.02 * random.lognormvariate(0, 0.6) for _ in range(tokens)) / tokens

    series = Series(TPOT, Rule())
    assert all(series.add(per_token(100), 500, 100) is not Change.DRIFTED for _ in range(600))
    assert all(series.add(per_token(3), 500, 3) is not Change.DRIFTED for _ in range(3_000))


@given(
    st.lists(
        st.tuples(st.floats(0, 1e6), st.floats(0, 1e7), st.floats(0, 1e7)).map(lambda one: Sample(*one)),
        min_size=1,
        max_size=80,
    )
)
def test_what_is_usual_is_never_less_than_nothing_and_holds_for_most_of_its_own_samples(samples: list[Sample]) -> None:
    usual = usual_of(samples, 1.25)
    assert usual.at_none >= 0
    assert usual.by_length >= 0
    assert sum(usual.is_slow(one) for one in samples) <= max(1, len(samples) // 10)
    assert all(stratum_of(one.size) >= 0 for one in samples)
