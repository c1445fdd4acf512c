"""A worse target is found out soon, a target that is as good hardly ever, however often one looks."""

import random

import pytest

from roundhouse.routing.canary import ALPHA, Arm, Canary, Outcome, slow_limit_s


def _run(old: float, new: float, percent: float, seed: int, *, slow: bool = False, requests: int = 1500) -> int | None:
    """After how many requests the new arm was given up, if it was."""
    chance, canary = random.Random(seed), Canary(percent, 60.0, slow_s=1.0 if slow else 0.0)
    for number in range(requests):
        arm = canary.arm(chance.random())
        happened = chance.random() < (new if arm is Arm.NEW else old)
        canary.observe(arm, Outcome(False, 2.0 if happened else 0.1) if slow else Outcome(happened))
        if canary.verdict:
            return number + 1
    return None


@pytest.mark.parametrize(("rate", "percent"), [(0.0, 10), (0.02, 10), (0.2, 50), (0.5, 50), (0.5, 5)])
@pytest.mark.parametrize("slow", [False, True])
def test_a_target_that_is_as_good_is_rarely_given_up(rate: float, percent: float, slow: bool) -> None:
    """At most in alpha of all canaries, though each was looked at after every request."""
    wrong = sum(_run(rate, rate, percent, seed, slow=slow) is not None for seed in range(100))
    assert wrong <= 100 * ALPHA + 5  # a chance of less than 0.01 to be exceeded at exactly alpha


def test_a_better_target_is_never_given_up() -> None:
    assert not any(_run(0.3, 0.05, 20, seed) for seed in range(50))


@pytest.mark.parametrize("slow", [False, True])
def test_a_broken_target_is_found_within_a_few_of_its_requests(slow: bool) -> None:
    found = [_run(0.0, 1.0, 10, seed, slow=slow) for seed in range(50)]
    assert all(one is not None and one < 200 for one in found)


def test_a_worse_target_is_found() -> None:
    assert sum(_run(0.02, 0.2, 20, seed) is not None for seed in range(50)) >= 48


def test_a_silent_arm_costs_no_memory() -> None:
    canary = Canary(1, 60.0)
    for _ in range(5000):
        canary.observe(Arm.OLD, Outcome(False))
    assert canary.counts[Arm.OLD] == 5000
    assert len(canary.failures._block[Arm.OLD]) <= 200


def test_what_is_slow_is_measured_by_what_was_usual() -> None:
    assert slow_limit_s([0.1] * 5) == 0.0, "too little is known"
    assert slow_limit_s([0.1] * 100) == pytest.approx(0.15)
    assert slow_limit_s([0.001] * 100) == pytest.approx(0.051)
