"""Order and sides: random to the rater, the same after a restart, fair to every pair."""

from collections import Counter
from itertools import combinations

from hypothesis import given
from hypothesis import strategies as st

from roundhouse.rating.judgement import Comparison
from roundhouse.rating.plan import first_is_left, ordered, remaining, shared


def comparisons(questions: int, variants: str) -> list[Comparison]:
    made = [(f"q{n}", *pair) for n in range(questions) for pair in combinations(variants, 2)]
    return [Comparison(number, *one) for number, one in enumerate(made, 1)]


@given(st.integers(1, 12), st.integers(2, 4), st.integers(0, 1 << 40))
def test_wherever_one_stops_all_pairs_are_equally_far(questions: int, variants: int, seed: int) -> None:
    given = comparisons(questions, "abcd"[:variants])
    order = ordered(given, seed)
    assert sorted(order, key=lambda one: one.id) == given
    counts: Counter[tuple[str, str]] = Counter()
    for place, one in enumerate(order, 1):
        counts[one.pair] += 1
        assert max(counts.values()) <= -(-place // len(list(combinations(range(variants), 2))))


def test_the_order_is_another_with_another_seed_and_the_same_with_the_same() -> None:
    given = comparisons(30, "ab")
    assert ordered(given, 1) == ordered(reversed(given), 1)
    assert ordered(given, 1) != ordered(given, 2)
    assert ordered(given, 1) != given


def test_sides_are_even_and_differ_between_raters() -> None:
    given = comparisons(1000, "ab")
    ada, bob = ([first_is_left(one, 5, rater) for one in given] for rater in ("ada", "bob"))
    assert 440 < sum(ada) < 560
    assert 440 < sum(a != b for a, b in zip(ada, bob, strict=True)) < 560


def test_a_side_stays_when_questions_are_added() -> None:
    few, many = comparisons(5, "ab"), comparisons(50, "ab")
    assert [first_is_left(one, 5, "ada") for one in few] == [first_is_left(one, 5, "ada") for one in many[:5]]


def test_what_is_not_shared_is_judged_by_whoever_comes_first() -> None:
    order = ordered(comparisons(200, "ab"), 1)
    everybody = {one.id for one in order}
    common = {one.id for one in order if shared(one, 1, 0.25)}
    assert 25 < len(common) < 75
    assert {one.id for one in remaining(order, set(), everybody, 1, 0.25)} == common
    assert remaining(order, everybody, set(), 1, 1.0) == []
    assert remaining(order, set(), everybody, 1, 0.0) == []
    assert remaining(order, set(), everybody, 1, 1.0) == order
