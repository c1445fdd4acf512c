"""What all entrances are asked: each hears a question until it has answered, and a late answer disturbs nobody."""

from __future__ import annotations

import asyncio

import msgspec
import pytest

from roundhouse.cluster.questions import Decided, Gathering, Latest, Question, Scrape
from roundhouse.core.errors import Attempt
from roundhouse.core.report import Choice, Report, Seam


async def test_a_question_is_open_for_whoever_has_not_answered() -> None:
    gathering = Gathering()
    number = gathering.ask(Decided("a"))
    other = gathering.ask(Scrape())
    assert [one.number for one in gathering.of("one")] == [number, other]
    waiting = asyncio.create_task(gathering.all_from(number, ["one", "two"]))
    gathering.came(number, "one", b"1")
    assert [one.number for one in gathering.of("one")] == [other]
    assert [one.number for one in gathering.of("two")] == [number, other]
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(asyncio.shield(waiting), 0.01)
    gathering.came(number, "two", b"2")
    await waiting
    assert gathering.close(number) == {"one": b"1", "two": b"2"}
    gathering.came(number, "three", b"3")
    assert [one.number for one in gathering.of("three")] == [other]
    assert gathering.close(other) == {}


@pytest.mark.parametrize("what", [Scrape(), Decided("x"), Latest(5, troubled=True)])
def test_questions_travel(what: Scrape | Decided | Latest) -> None:
    asked = Question(1, what)
    assert msgspec.msgpack.decode(msgspec.msgpack.encode(asked), type=Question) == asked


def test_a_report_travels_whole() -> None:
    report = Report(
        "id",
        "default",
        target="demo",
        attempts=[Attempt("demo", "ok", seconds=0.5)],
        choices=[Choice(0.0, "serve", (("demo#2", "busy"),))],
        seams=[Seam(3, "one", "two")],
        warnings=["cut"],
    )
    assert msgspec.msgpack.decode(msgspec.msgpack.encode(report), type=Report | None) == report
