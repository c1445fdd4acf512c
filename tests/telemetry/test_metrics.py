"""Numbers that can be trusted, in memory that does not grow."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from roundhouse.telemetry.metrics import LLMMetrics, Minute
from roundhouse.telemetry.sketch import Rolling, Sketch


@given(st.lists(st.floats(1e-6, 1e6), min_size=1, max_size=200), st.sampled_from([0.0, 0.5, 0.95, 0.99, 1.0]))
def test_every_quantile_is_within_one_percent(values: list[float], share: float) -> None:
    sketch = Sketch()
    for value in values:
        sketch.add(value)
    true = sorted(values)[max(0, -(-int(share * 10_000) * len(values) // 10_000) - 1)]
    assert sketch.quantile(share) == pytest.approx(true, rel=0.0101)


def test_bins_are_bounded_and_the_slow_end_stays_exact() -> None:
    sketch = Sketch(most_bins=100)
    for exponent in range(1000):
        sketch.add(1.03**exponent)
    assert len(sketch._bins) <= 100
    assert sketch.quantile(0.99) == pytest.approx(1.03**989, rel=0.02)
    assert sketch.count == 1000


@pytest.mark.parametrize("value", [-1.0, float("nan"), float("inf")])
def test_what_is_no_duration_is_refused(value: float) -> None:
    with pytest.raises(ValueError, match="finite number"):
        Sketch().add(value)


def test_nothing_counted_is_nothing_claimed() -> None:
    summary = LLMMetrics().summary()
    assert (summary.requests, summary.error_rate, summary.p99_s, summary.mean_s) == (0, 0.0, None, None)


def test_requests_become_percentiles_error_rate_and_rates_over_the_last_minute() -> None:
    now = 1000.0
    metrics = LLMMetrics(clock=lambda: now)
    for number in range(1, 101):
        metrics.record_request(number / 100, 10, 5, success=True)
        now += 0.1
    metrics.record_request(9.0, 10, 0, success=False)
    summary = metrics.summary()
    assert (summary.requests, summary.errors) == (101, 1)
    assert summary.error_rate == pytest.approx(1 / 101)
    assert summary.p50_s == pytest.approx(0.5, rel=0.02)
    assert summary.p99_s == pytest.approx(0.99, rel=0.02)
    assert (summary.input_tokens, summary.output_tokens) == (1010, 500)
    assert summary.requests_per_s == pytest.approx(10, rel=0.05)
    now += 120
    assert metrics.summary().requests_per_s == 0
    assert metrics.summary().requests == 101


def test_the_last_minute_is_told_apart_from_all_that_was_before() -> None:
    now = 1000.0
    metrics = LLMMetrics(clock=lambda: now)
    for number in range(600):  # a good hour in ten minutes' steps, then a bad minute
        metrics.record_request(0.1 if number < 570 else 5.0, 1, 1, success=number < 590)
        now += 2.0
    minute = metrics.minute()
    assert minute.requests == pytest.approx(30, abs=1)
    assert (minute.errors, minute.error_rate) == (10, pytest.approx(1 / 3, abs=0.02))
    assert minute.p50_s == pytest.approx(5.0, rel=0.02)
    assert metrics.summary().p95_s == pytest.approx(0.1, rel=0.02)
    now += 120
    assert metrics.minute() == Minute(0, 0, 0.0, None, None, None)


@given(st.lists(st.tuples(st.floats(0, 30), st.floats(0, 1e4)), max_size=80))
def test_recent_values_are_those_of_a_minute_or_a_little_less(steps: list[tuple[float, float]]) -> None:
    now, told = 0.0, []
    rolling = Rolling(clock=lambda: now)
    for gap, value in steps:
        now += gap
        rolling.add(value)
        told.append(now)
        count = rolling.recent().count
        assert sum(at > now - 40 for at in told) <= count <= sum(at > now - 60 for at in told)
