"""Percentiles: intervals that hold what they promise, and a refusal where there is too little."""

import random

import pytest

from roundhouse.bench.statistics import effective_size, needed, quantile


@pytest.mark.parametrize(("share", "least"), [(0.5, 6), (0.95, 72), (0.99, 368)])
def test_the_sample_that_an_interval_needs(share: float, least: int) -> None:
    assert needed(share) == least


def test_too_few_values_give_no_number() -> None:
    found = quantile(range(367), 0.99)
    assert (found.value, found.low, found.high, found.n, found.needed) == (None, None, None, 367, 368)
    assert quantile(range(368), 0.99).value is not None


def test_a_percentile_is_a_value_that_was_seen() -> None:
    """Inverse CDF: the smallest value whose cumulative share reaches q."""
    found = quantile(range(1, 1001), 0.95)
    assert found.value == 950
    assert found.low is not None
    assert found.high is not None
    assert found.low < 950 < found.high


@pytest.mark.parametrize(("share", "n"), [(0.5, 20), (0.95, 100), (0.99, 400), (0.99, 2000)])
def test_the_interval_covers_the_truth_as_often_as_it_says(share: float, n: int) -> None:
    """400 samples of a known distribution; 95 % promised, three standard errors allowed below it."""
    chance = random.Random(5)
    covered = 0
    for _ in range(400):
        found = quantile([chance.random() for _ in range(n)], share)
        assert found.low is not None
        assert found.high is not None
        covered += found.low <= share <= found.high
    assert covered / 400 >= 0.95 - 3 * (0.95 * 0.05 / 400) ** 0.5


def test_values_that_follow_each_other_count_for_less() -> None:
    chance = random.Random(1)
    independent = [chance.random() for _ in range(2000)]
    walking = [0.0]
    for value in independent:
        walking.append(0.9 * walking[-1] + value)
    assert effective_size(independent) > 1700
    assert effective_size(walking) < 300
    assert effective_size([1.0] * 5) == 5
