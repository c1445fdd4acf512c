"""Scorers by name: ours, and those of others, which may be anything."""

from importlib.metadata import EntryPoint, EntryPoints

import pytest

from roundhouse.core.errors import InvalidRequest
from roundhouse.scoring import scorers
from roundhouse.scoring.scorers import SCORERS, Scored, find, score

GIVEN = Scored("Yes, 42.", ("yes 42",), {"question": "how many?"})


def mentions(given: Scored) -> bool:
    return given.values["question"].startswith("how") and "42" in given.answer


def broken(given: Scored) -> float:
    raise KeyError("no such thing")


def endless(given: Scored) -> float:
    return float("inf")


not_a_scorer = 3


@pytest.mark.parametrize("name", SCORERS)
def test_ours_give_a_number(name: str) -> None:
    assert score(name, find(name), GIVEN) >= 0


def test_a_function_of_somebodys_module_is_found_and_may_say_true() -> None:
    name = f"{__name__}:mentions"
    assert score(name, find(name), GIVEN) == 1.0


def test_an_entry_point_is_found_by_its_name(monkeypatch: pytest.MonkeyPatch) -> None:
    points = EntryPoints([EntryPoint("mentions", f"{__name__}:mentions", scorers.ENTRY_POINTS)])
    monkeypatch.setattr(scorers, "entry_points", lambda **wanted: points.select(**wanted))
    assert find("mentions") is mentions


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("exactmatch", "there is no scorer"),
        ("nowhere.at.all:score", "ModuleNotFoundError"),
        (f"{__name__}:nothing", "AttributeError"),
        (f"{__name__}:not_a_scorer", "cannot be called"),
        (":x", "there is no scorer"),
    ],
)
def test_a_name_that_leads_nowhere_is_said(name: str, said: str) -> None:
    with pytest.raises(InvalidRequest, match=said):
        find(name)


@pytest.mark.parametrize(("name", "said"), [("broken", "failed: KeyError"), ("endless", "no finite number")])
def test_a_scorer_that_fails_is_named(name: str, said: str) -> None:
    full = f"{__name__}:{name}"
    with pytest.raises(InvalidRequest, match=said):
        score(full, find(full), GIVEN)
