"""Differences in pairs: right where the answer is known, and not fooled where there is none."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from roundhouse.evaluate.paired import difference, holm, interval

TRUTHS = st.lists(st.tuples(st.booleans(), st.booleans()), min_size=2, max_size=40)


def test_mcnemar_is_the_binomial_test_of_the_questions_that_differ() -> None:
    first = [1.0] * 7 + [0.0] + [1.0] * 50
    second = [0.0] * 7 + [1.0] + [1.0] * 50
    found = difference(first, second, 0.95, 0)
    assert (found.higher, found.lower, found.n) == (1, 7, 58)
    assert found.p == pytest.approx(2 * (1 + 8) / 2**8)
    assert found.mean == pytest.approx(-6 / 58)
    assert found.test == "McNemar, exact"


def test_few_questions_are_flipped_in_every_way() -> None:
    first, second = [0.1, 0.2, 0.3, 0.5], [0.4, 0.3, 0.9, 0.4]
    deltas = [b - a for a, b in zip(first, second, strict=True)]
    sums = [abs(sum(sign * one for sign, one in zip(signs, deltas, strict=True)))
            for signs in itertools.product((1, -1), repeat=4)]  # fmt: skip
    expected = sum(one >= abs(sum(deltas)) - 1e-12 for one in sums) / 16
    assert difference(first, second, 0.95, 0).p == pytest.approx(expected)


def test_drawn_flips_agree_with_all_of_them() -> None:
    chance = np.random.default_rng(3)
    first, second = chance.normal(0, 1, 14), chance.normal(0.4, 1, 14)
    exact = difference(list(first), list(second), 0.95, 0)
    assert "exact" in exact.test
    # Zeros change nothing but make it too many to enumerate together with pairs that cancel each other out in no flip.
    wide = difference([*first, 0.0], [*second, 1e-9], 0.95, 0)
    assert "drawn" in wide.test
    assert wide.p == pytest.approx(exact.p, abs=0.02)


def test_questions_without_any_difference_say_nothing() -> None:
    for value in (1.0, 0.3):
        found = difference([value] * 5, [value] * 5, 0.95, 0)
        assert (found.mean, found.low, found.high, found.p) == (0, 0, 0, 1)


@given(TRUTHS)
def test_exchanging_the_two_turns_the_sign_and_nothing_else(pairs: list[tuple[bool, bool]]) -> None:
    first, second = [float(a) for a, _ in pairs], [float(b) for _, b in pairs]
    one, other = difference(first, second, 0.9, 1), difference(second, first, 0.9, 1)
    assert one.mean == -other.mean
    assert one.p == other.p
    assert 0 < one.p <= 1
    assert one.low <= one.mean <= one.high


@pytest.mark.parametrize("kind", ["truth", "number"])
def test_without_a_difference_one_is_found_no_more_often_than_promised(kind: str) -> None:
    chance, found, runs = np.random.default_rng(7), 0, 300
    for run in range(runs):
        values = (chance.random((2, 40)) < 0.6).astype(float) if kind == "truth" else chance.exponential(1, (2, 12))
        found += difference(list(values[0]), list(values[1]), 0.95, run).p < 0.05
    # Binomial(300, 0.05) is above 27 in less than one of a thousand cases.
    assert found <= 27


def test_the_interval_covers_the_mean_about_as_often_as_it_says() -> None:
    chance, covered = np.random.default_rng(5), 0
    for run in range(100):
        low, high = interval(list(chance.normal(2, 1, 60)), 0.9, run)
        covered += low <= 2 <= high
    assert 80 <= covered <= 98


@settings(max_examples=50)
@given(st.dictionaries(st.integers(), st.floats(0, 1), min_size=1, max_size=8))
def test_holm_is_between_no_correction_and_bonferroni_and_keeps_the_order(values: dict[int, float]) -> None:
    corrected = holm(values)
    for name, p in values.items():
        assert p <= corrected[name] <= min(1.0, p * len(values)) or math.isclose(p, corrected[name])
    by_p = sorted(values, key=lambda name: values[name])
    assert all(corrected[a] <= corrected[b] for a, b in itertools.pairwise(by_p))


def test_holm_as_its_paper_has_it() -> None:
    assert holm({"a": 0.01, "b": 0.04, "c": 0.03}) == pytest.approx({"a": 0.03, "c": 0.06, "b": 0.06})
