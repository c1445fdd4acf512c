"""A change is known everywhere before anything is taken away because of it."""

from __future__ import annotations

from roundhouse.cluster.published import Followers, Published, Report


def test_an_application_is_free_when_all_have_heard_and_none_has_a_request_there() -> None:
    followers = Followers()
    followers.heard(Report("one", version=2), 0.0)
    followers.heard(Report("two", version=1), 0.0)
    assert not followers.free_of("old", 2, 1.0)
    assert followers.go_by(1, 1.0)
    assert not followers.go_by(2, 1.0)
    followers.heard(Report("two", version=2, uses={"old": 1}), 1.0)
    assert not followers.free_of("old", 2, 1.0)
    assert followers.uses("old", 1.0) == 1
    followers.heard(Report("two", version=3, uses={"new": 1}), 2.0)
    assert followers.free_of("old", 2, 2.0)


def test_an_entrance_that_is_gone_holds_nothing_up() -> None:
    followers = Followers()
    followers.heard(Report("dead", version=1, uses={"old": 3}), 0.0)
    followers.heard(Report("living", version=2), 30.0)
    assert followers.free_of("old", 2, 30.0)
    assert [one.entrance for one in followers.living(30.0)] == ["living"]


def test_the_same_under_another_version_is_no_change() -> None:
    one = Published(1, {"default": (("a",),)}, applications={"a": "app"})
    assert one.same(Published(2, {"default": (("a",),)}, applications={"a": "app"}))
    assert not one.same(Published(1, {"default": (("b",),)}, applications={"a": "app"}))
