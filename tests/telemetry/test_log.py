"""Lines of the log: whole, in order, redacted; and nobody waits for whoever reads them."""

import io
import json
import logging
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime

import pytest

from roundhouse.telemetry.events import EngineDied, RequestEnded
from roundhouse.telemetry.log import Log, LogStyle, Spoken
from roundhouse.telemetry.redaction import Redaction

_log = logging.getLogger("roundhouse.tests.log")
_ENDED = RequestEnded("id-1", "answers", "small", "ok", 1.23456789, input_tokens=7, failed=(("big", "refused"),))


@contextmanager
def _logging(style: LogStyle) -> Iterator[tuple[Log, io.StringIO]]:
    """What was written is there after the block."""
    out = io.StringIO()
    log = Log(style, out)
    try:
        yield log, out
    finally:
        log.close()


def _lines(out: io.StringIO) -> list[dict]:
    return [json.loads(line) for line in out.getvalue().splitlines()]


def test_a_line_of_json_has_the_time_in_utc_the_level_the_logger_and_the_message() -> None:
    before = datetime.now(UTC)
    with _logging(LogStyle(json=True)) as (_, out):
        _log.warning("%s is late", "small", extra={"target": "small"})
    (line,) = _lines(out)
    assert {**line, "time": ""} == {
        "time": "",
        "level": "WARNING",
        "logger": "roundhouse.tests.log",
        "message": "small is late",
        "target": "small",
    }
    assert line["time"].endswith("Z")
    assert abs(datetime.fromisoformat(line["time"]) - before).total_seconds() < 60


@pytest.mark.parametrize("as_json", [True, False])
def test_a_message_is_one_line_whatever_is_in_it(as_json: bool) -> None:
    with _logging(LogStyle(json=as_json)) as (_, out):
        _log.warning("it said %s", "no\nERROR root: forged\r\x1b[2J\u2028")
    assert len(out.getvalue().splitlines()) == 1 if not as_json else out.getvalue().count("\n") == 1
    assert "\x1b" not in out.getvalue()


def test_an_exception_is_a_field_of_its_line_of_json() -> None:
    with _logging(LogStyle(json=True)) as (_, out):
        try:
            _ = 1 / 0
        except ZeroDivisionError:
            _log.exception("failed")
    (line,) = _lines(out)
    assert line["message"] == "failed"
    assert line["error"].endswith("ZeroDivisionError: division by zero")


def test_a_request_that_ended_is_a_line_of_numbers_whatever_the_level() -> None:
    with _logging(LogStyle(json=True, level="error", requests=True)) as (log, out):
        log.request(_ENDED)
        log.request(EngineDied("small", "exited"))
        _log.warning("not so bad")
    (line,) = _lines(out)
    assert line["request_id"] == "id-1"
    assert line["total_s"] == 1.234568
    assert line["input_tokens"] == 7
    assert line["failed"] == ["big: refused"]
    assert "queue_s" not in line


def test_requests_and_their_texts_are_in_no_log_unless_it_is_switched_on() -> None:
    with _logging(LogStyle(level="debug")) as (log, out):
        log.request(_ENDED)
        log.content(Spoken("id-1", (("user", "who?"),), {}, "nobody"))
    assert out.getvalue() == ""
    assert not log.wants_content


@pytest.mark.parametrize("as_json", [True, False])
def test_texts_are_redacted_by_the_rules_and_by_patterns_of_ones_own(as_json: bool) -> None:
    redaction = Redaction(("email",), {"ticket": r"T-\d+"})
    spoken = Spoken(
        "id-1", (("user", "mail ann@example.org about T-77"),), {"context": "bob@example.org"}, "T-77 is 1.2.3.4"
    )
    with _logging(LogStyle(json=as_json, content=True, redaction=redaction)) as (log, out):
        log.content(spoken)
    line = out.getvalue()
    found = json.loads(line if as_json else line.split(": ", 2)[2])
    assert found["asked"] == [{"role": "user", "text": "mail [email] about [ticket]"}]
    assert found["values"] == {"context": "[email]"}
    assert found["answered"] == "[ticket] is 1.2.3.4"


def test_a_long_text_is_cut_and_nothing_personal_shows_at_the_cut() -> None:
    text = "x " * 9_995 + "4111 1111 1111 1111 and more " * 10
    with _logging(LogStyle(json=True, content=True)) as (log, out):
        log.content(Spoken("id-1", (("user", text),), {}, "y" * 50_000))
    (line,) = _lines(out)
    assert "4111" not in line["asked"][0]["text"]
    assert line["asked"][0]["text"].endswith(f"[cut, of {len(text)} characters]")
    assert len(line["answered"]) < 21_000


def test_a_style_can_change_while_it_runs() -> None:
    with _logging(LogStyle(level="error")) as (log, out):
        _log.warning("unheard")
        log.apply(LogStyle(level="info", json=True))
        _log.info("heard")
    assert [line["message"] for line in _lines(out)] == ["heard"]


def test_after_it_is_closed_logging_is_as_it_was() -> None:
    root = logging.getLogger()
    before = (root.level, list(root.handlers), logging.getLogger("roundhouse.requests").level)
    with _logging(LogStyle(level="debug", requests=True)):
        pass
    assert (root.level, list(root.handlers), logging.getLogger("roundhouse.requests").level) == before


def test_whoever_logs_does_not_wait_for_a_reader_that_reads_nothing() -> None:
    """Lines beyond what may wait are lost and counted; closing gives up after a while."""
    reading, writing = os.pipe()
    with os.fdopen(writing, "w", buffering=1) as out, os.fdopen(reading) as reader:
        log = Log(LogStyle(json=True), out)
        for number in range(30_000):
            _log.warning("line %d", number)
        told: list[dict] = []
        some_read = threading.Event()

        def read_all() -> None:
            for line in reader:
                told.append(json.loads(line))
                if len(told) == 1_000:
                    some_read.set()

        read = threading.Thread(target=read_all)
        read.start()
        some_read.wait(60)
        _log.warning("after")
        log.close()
        out.close()
        read.join()
    assert some_read.is_set()
    lost = [line["message"] for line in told if "are missing here" in line["message"]]
    said = sum(int(message.split()[0]) for message in lost)
    assert lost
    assert said + sum(line["message"].startswith("line ") for line in told) == 30_000
    assert told[-1]["message"] == "after"
