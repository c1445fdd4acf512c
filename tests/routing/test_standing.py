"""What an answer means for those who come next; a state that has passed is no reason to wait."""

import pytest

from roundhouse.core import errors
from roundhouse.routing.standing import Standing


def _failed(standing: Standing, error: errors.Error, now: float = 0.0) -> None:
    standing.failed(error, standing.begin(now), now, 0.5)


@pytest.mark.parametrize(
    ("error", "until", "passes"),
    [
        (errors.Overloaded("", rate_limited=True, retry_after_s=3), 3, True),
        (errors.Overloaded("", rate_limited=True), 1, True),
        (errors.Overloaded("", retry_after_s=3), 3, False),
        (errors.Loading(""), 0.5, True),
        (errors.Misconfigured(""), 30, False),
        (errors.LaunchFailed(""), 1, False),
    ],
)
def test_a_state_of_its_own_lasts_as_long_as_it_should(error: errors.Error, until: float, passes: bool) -> None:
    standing = Standing()
    _failed(standing, error)
    assert standing.objection(until - 0.1)
    assert standing.routable_in_s(0) == until
    assert standing.passes(0) == passes
    assert standing.objection(until + 0.1) == ""


@pytest.mark.parametrize(
    "error",
    [
        errors.InvalidRequest(""),
        errors.ContentRefused(""),
        errors.ContextTooLong(""),
        errors.TimedOut("", phase="total"),
    ],
)
def test_what_is_no_fault_of_the_backend_changes_nothing(error: errors.Error) -> None:
    standing = Standing()
    for _ in range(50):
        _failed(standing, error)
    assert standing.objection(0) == ""


def test_an_open_breaker_is_not_waited_for_because_it_was_rate_limited_before() -> None:
    standing = Standing()
    _failed(standing, errors.Overloaded("", rate_limited=True, retry_after_s=1))
    for _ in range(5):
        _failed(standing, errors.BadResponse(""), 2.0)
    assert "breaker is open" in standing.objection(2.0)
    assert not standing.passes(2.0)


def test_a_lost_replica_says_nothing_of_the_others_behind_the_same_door() -> None:
    standing = Standing()
    for _ in range(20):
        standing.failed(errors.ReplicaLost("gone"), standing.begin(0.0), 0.0, 0.5)
    assert standing.objection(0.0) == ""
