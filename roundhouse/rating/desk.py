"""Where raters sit: gives each the next two answers, takes what they say. Names of variants never leave it."""

from __future__ import annotations

import time
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass

from roundhouse.core.errors import InvalidRequest
from roundhouse.rating.judgement import Comparison, Verdict, outcome
from roundhouse.rating.plan import first_is_left, ordered, remaining
from roundhouse.rating.status import enough
from roundhouse.rating.store import Store

__all__ = ["Desk", "Task", "View"]

_LONGEST_NAME = 64
_LONGEST_NOTE = 4000
_LONGEST_S = 86_400.0


@dataclass(frozen=True, slots=True)
class Task:
    """Two answers without their names. `note` is what the rater wrote before taking the verdict back."""

    id: int
    messages: Sequence[tuple[str, str]]
    context: str
    left: str
    right: str
    note: str = ""


@dataclass(frozen=True, slots=True)
class View:
    """What a rater sees. `task` None = all is judged. `enough`: the test has decided every pair; one may stop.

    `said`: what became of the last request, in words for the rater; empty = as it should.
    """

    rater: str
    done: int
    skipped: int
    total: int
    enough: bool
    task: Task | None
    said: str = ""


class Desk:
    """Blocks for the time of small reads and writes; safe to use from several threads and beside other processes."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._order: list[Comparison] = []

    def look(self, rater: str) -> View:
        """The rater's next task, which is the same until it is judged."""
        return self._view(_name(rater))

    def judge(self, rater: str, comparison: int, verdict: Verdict, note: str, seconds: float) -> View:
        """Store, then the next task. Raises `InvalidRequest` for a comparison there is not or a note without end."""
        rater, note = _name(rater), note.strip()
        if len(note) > _LONGEST_NOTE:
            raise InvalidRequest(f"the note is longer than {_LONGEST_NOTE:,} characters", param="note")
        judged = next((one for one in self._ordered() if one.id == comparison), None)
        if judged is None:
            raise InvalidRequest("there is no such comparison; load the page again", param="comparison")
        on_left = first_is_left(judged, self._store.design.seed, rater)
        left = judged.first if on_left else judged.second
        said = outcome(verdict, first_is_left=on_left)
        took_s = min(seconds, _LONGEST_S) if seconds > 0 else 0.0  # what is no number is not above 0 either
        stored = self._store.record(judged, rater, said, left, note, took_s, time.time())
        return self._view(rater, said="" if stored else "This one was judged before, in another window; that stands.")

    def undo(self, rater: str) -> View:
        """Take back the last judgement and show its task again."""
        rater = _name(rater)
        taken = self._store.undo(rater, time.time())
        if taken is None:
            return self._view(rater, said="There is nothing to take back.")
        return self._view(rater, self._task(taken.comparison, rater, taken.note), "Taken back: judge it again.")

    def again(self, rater: str) -> View:
        """Have what the rater skipped come again."""
        rater = _name(rater)
        self._store.unskip(rater, time.time())
        return self._view(rater)

    def raters(self) -> list[str]:
        """Who has judged here before."""
        return sorted({rater for _, rater in self._store.judged()})

    def _view(self, rater: str, task: Task | None = None, said: str = "") -> View:
        order, design = self._ordered(), self._store.design
        judged = self._store.judged()
        own = {number for number, by in judged if by == rater}
        others = {number for number, by in judged if by != rater}
        left = remaining(order, own, others, design.seed, design.overlap)
        if task is None and left:
            task = self._task(left[0], rater)
        skipped = self._store.skipped(rater)
        done = len(own) - skipped
        return View(rater, done, skipped, done + skipped + len(left), enough(self._store), task, said)

    def _task(self, comparison: Comparison, rater: str, note: str = "") -> Task:
        question = self._store.question(comparison.question)
        answers = self._store.answers(comparison.question)
        pair = answers[comparison.first], answers[comparison.second]
        left, right = pair if first_is_left(comparison, self._store.design.seed, rater) else pair[::-1]
        return Task(comparison.id, question.messages, question.context, left, right, note)

    def _ordered(self) -> list[Comparison]:
        """Read again when another process has added some: none ever goes."""
        if len(self._order) != self._store.count():
            self._order = ordered(self._store.comparisons(), self._store.design.seed)
        return self._order


def _name(rater: str) -> str:
    """Two ways to write one name are one rater."""
    name = unicodedata.normalize("NFC", " ".join(rater.split()))
    if not name or len(name) > _LONGEST_NAME or not name.isprintable():
        raise InvalidRequest(f"a rater's name has 1 to {_LONGEST_NAME} characters that can be shown", param="rater")
    return name
