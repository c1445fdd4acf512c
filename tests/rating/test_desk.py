"""What raters are shown, whatever they do: judge, skip, undo, come again, at two desks on one file."""

import tempfile
from pathlib import Path

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from roundhouse.core.errors import InvalidRequest
from roundhouse.rating.answers import Question, Rated
from roundhouse.rating.desk import Desk
from roundhouse.rating.judgement import Verdict
from roundhouse.rating.status import status_of
from roundhouse.rating.store import Design, Store

RATERS = st.sampled_from(["ada", "bob"])
VERDICTS = st.sampled_from(Verdict)


def store_at(path: Path, questions: int = 4, **design: float) -> Store:
    store = Store(path, Design(seed=3, **design))  # type: ignore[arg-type]
    store.add(
        Rated(Question(f"q{n}", (("user", f"Q{n}?"),)), {name: f"{name}{n}" for name in "abc"})
        for n in range(questions)
    )
    return store


class Raters(RuleBasedStateMachine):
    """A model of plain dictionaries beside two desks, which are two processes' view of one file."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = tempfile.TemporaryDirectory()
        path = Path(self.folder.name) / "a.ratings"
        self.stores = [store_at(path), Store(path)]
        self.desks = [Desk(store) for store in self.stores]
        self.said: dict[str, dict[int, tuple[Verdict, str]]] = {"ada": {}, "bob": {}}

    def teardown(self) -> None:
        for store in self.stores:
            store.close()
        self.folder.cleanup()

    @rule(rater=RATERS, verdict=VERDICTS, desk=st.integers(0, 1))
    def judges(self, rater: str, verdict: Verdict, desk: int) -> None:
        task = self.desks[desk].look(rater).task
        if task is None:
            return
        assert task.id not in self.said[rater]
        self.desks[1 - desk].judge(rater, task.id, verdict, "", 1.0)
        self.said[rater][task.id] = (verdict, task.left[0])

    @rule(rater=RATERS, desk=st.integers(0, 1))
    def takes_back(self, rater: str, desk: int) -> None:
        view = self.desks[desk].undo(rater)
        if not self.said[rater]:
            assert view.said == "There is nothing to take back."
            return
        last, _ = self.said[rater].popitem()
        assert view.task is not None
        assert view.task.id == last

    @rule(rater=RATERS)
    def looks_again(self, rater: str) -> None:
        self.desks[0].again(rater)
        self.said[rater] = {n: one for n, one in self.said[rater].items() if one[0] is not Verdict.SKIP}

    @rule(rater=RATERS, verdict=VERDICTS, data=st.data())
    def judges_twice(self, rater: str, verdict: Verdict, data: st.DataObject) -> None:
        if self.said[rater]:
            number = data.draw(st.sampled_from(sorted(self.said[rater])))
            assert "another window" in self.desks[0].judge(rater, number, verdict, "", 1.0).said

    @invariant()
    def everybody_sees_what_was_said(self) -> None:
        for rater, said in self.said.items():
            view = self.desks[1].look(rater)
            skipped = sum(verdict is Verdict.SKIP for verdict, _ in said.values())
            assert (view.done, view.skipped, view.total) == (len(said) - skipped, skipped, 12)
            assert (view.task is None) == (len(said) == 12)
        for one in self.stores[0].judgements():
            verdict, left = self.said[one.rater][one.comparison.id]
            assert one.left == left
            if verdict in (Verdict.LEFT, Verdict.RIGHT):
                right = one.comparison.second if left == one.comparison.first else one.comparison.first
                winner = one.comparison.first if one.outcome and one.outcome.points else one.comparison.second
                assert winner == (left if verdict is Verdict.LEFT else right)


Raters.TestCase.settings = settings(max_examples=25, stateful_step_count=30, deadline=None)
TestRaters = Raters.TestCase


def test_one_who_always_prefers_a_variant_makes_it_win(tmp_path: Path) -> None:
    store = store_at(tmp_path / "a.ratings", 10)
    desk = Desk(store)
    view = desk.look("ada")
    while view.task is not None:
        better = min(view.task.left, view.task.right)
        view = desk.judge("ada", view.task.id, Verdict.LEFT if better == view.task.left else Verdict.RIGHT, "", 2.0)
    told = status_of(store)
    assert [(one.first, one.second, one.wins, one.losses) for one in told.preferences] == [
        ("a", "b", 10, 0), ("a", "c", 10, 0), ("b", "c", 10, 0)
    ]  # fmt: skip
    assert view.enough
    assert told.decided
    assert told.strengths is not None
    assert [one.variant for one in told.strengths] == ["a", "b", "c"]
    assert told.raters[0].median_s == 2.0
    assert told.raters[0].left is not None
    assert 0.2 < told.raters[0].left < 0.8


def test_what_is_not_shared_is_not_judged_twice(tmp_path: Path) -> None:
    desk = Desk(store_at(tmp_path / "a.ratings", overlap=0.0))
    first = desk.look("ada")
    assert first.task is not None
    desk.judge("ada", first.task.id, Verdict.TIE, "", 1.0)
    other = desk.look("bob")
    assert other.total == 11
    assert other.task is not None
    assert other.task.id != first.task.id


@pytest.mark.parametrize("name", ["", "  ", "x" * 65, "a\x00b", "\u202eada"])
def test_a_name_that_cannot_be_shown_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(InvalidRequest, match="name"):
        Desk(store_at(tmp_path / "a.ratings")).look(name)


def test_two_ways_to_write_a_name_are_one_rater(tmp_path: Path) -> None:
    desk = Desk(store_at(tmp_path / "a.ratings"))
    view = desk.look(" Jose\u0301  A ")
    assert view.rater == "Jos\u00e9 A"
    assert view.task is not None
    desk.judge("Jos\u00e9 A", view.task.id, Verdict.TIE, "", 1.0)
    assert desk.look("Jose\u0301 A").done == 1
    assert desk.raters() == ["Jos\u00e9 A"]


def test_a_note_without_end_and_a_comparison_that_is_none_are_refused(tmp_path: Path) -> None:
    desk = Desk(store_at(tmp_path / "a.ratings"))
    with pytest.raises(InvalidRequest, match="note is longer"):
        desk.judge("ada", 1, Verdict.TIE, "x" * 4001, 1.0)
    with pytest.raises(InvalidRequest, match="no such comparison"):
        desk.judge("ada", 99, Verdict.TIE, "", 1.0)


def test_seconds_that_no_clock_could_show_do_not_spoil_the_median(tmp_path: Path) -> None:
    store = store_at(tmp_path / "a.ratings")
    desk = Desk(store)
    for number, seconds in ((1, float("nan")), (2, -5.0), (3, 1e30)):
        desk.judge("ada", number, Verdict.TIE, "", seconds)
    assert [one.seconds for one in store.judgements()] == [0.0, 0.0, 86_400.0]
