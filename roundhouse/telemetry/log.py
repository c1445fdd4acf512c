"""The log of a server: lines of text or JSON on standard error, by a thread of its own, so a slow reader stops nobody.

Each request that ended can have a line of numbers; what was asked and answered is in the log only where that is
switched on, and then redacted.
"""

from __future__ import annotations

import logging
import sys
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from logging.handlers import QueueHandler
from queue import Full, Queue
from typing import Any, TextIO

import msgspec

from roundhouse.telemetry.events import OK, Event, RequestEnded
from roundhouse.telemetry.redaction import Redaction

__all__ = ["Log", "LogStyle", "Spoken"]

_REQUESTS = logging.getLogger("roundhouse.requests")
_SAID = "roundhouse.server"
_MOST_WAITING = 10_000
_STOP_S = 2.0
_TEXT = "%(levelname)s %(name)s: %(message)s"
_NOT_SHOWN = ("gaps", "failed")


@dataclass(frozen=True, slots=True)
class LogStyle:
    """`level`: of the least lines that are written, by its name in `logging`. Whatever the level, `requests`: a
    line for each request that ended; `content`: one with its texts, through `redaction`.
    """

    json: bool = False
    level: str = "warning"
    requests: bool = False
    content: bool = False
    redaction: Redaction = field(default_factory=Redaction)


class Spoken(msgspec.Struct, frozen=True):
    """What was asked, by role, with the `values` of its prompt's variables, and what was answered."""

    request_id: str
    asked: tuple[tuple[str, str], ...]
    values: Mapping[str, str]
    answered: str


class Log:
    """Everything that this process logs goes through it from now until `close`. `apply` may be called at any time."""

    def __init__(self, style: LogStyle, stream: TextIO | None = None) -> None:
        self._output = logging.StreamHandler(stream or sys.stderr)
        self._waiting: Queue[logging.LogRecord | None] = Queue(_MOST_WAITING)
        self._writer = threading.Thread(target=self._write, name="log", daemon=True)
        root = logging.getLogger()
        self._before = (root.level, _REQUESTS.level, list(root.handlers))
        self._entrance = _Entrance(self._waiting)
        root.handlers[:] = [self._entrance]
        self.apply(style)
        self._writer.start()

    def apply(self, style: LogStyle) -> None:
        self._style = style
        self._output.setFormatter(_json_lines() if style.json else _Line(_TEXT))
        self._output.filters[:] = [_Redacting(style)]
        logging.getLogger().setLevel(style.level.upper())
        _REQUESTS.setLevel(logging.INFO if style.requests or style.content else logging.CRITICAL)

    @property
    def wants_content(self) -> bool:
        return self._style.content

    def request(self, event: Event) -> None:
        """A line for a request that ended: times in seconds, and of the numbers those that are not zero."""
        if not self._style.requests or not isinstance(event, RequestEnded):
            return
        told: dict[str, Any] = {
            name: round(value, 6) if isinstance(value, float) else value
            for name, value in msgspec.structs.asdict(event).items()
            if value and name not in _NOT_SHOWN
        }
        if event.failed:
            told["failed"] = [f"{target}: {code}" for target, code in event.failed]
        done = f"was answered by {event.target}" if event.outcome == OK else f"ended as {event.outcome}"
        _REQUESTS.info("%s of %s %s in %.3f s", event.request_id, event.route, done, event.total_s, extra=told)

    def content(self, spoken: Spoken) -> None:
        """A line with the texts of a request, each cut to 20,000 characters; redacted when it is written."""
        if self._style.content:
            _REQUESTS.info("texts of %s", spoken.request_id, extra={"spoken": spoken})

    def say(self, text: str) -> None:
        """A line for whoever runs the server, whatever the level; in text without a level before it."""
        self._entrance.enqueue(logging.LogRecord(_SAID, logging.INFO, "", 0, text, None, None))

    def close(self) -> None:
        """Write what waits; a reader that takes nothing for two seconds gets no more."""
        root = logging.getLogger()
        level, requests, root.handlers[:] = self._before
        root.setLevel(level)
        _REQUESTS.setLevel(requests)
        until = time.monotonic() + _STOP_S
        try:
            self._waiting.put(None, timeout=_STOP_S)
        except Full:
            return
        self._writer.join(max(0.0, until - time.monotonic()))

    def _write(self) -> None:
        for record in iter(self._waiting.get, None):
            self._output.handle(record)


class _Entrance(QueueHandler):
    """Loses lines rather than have a request wait for whoever reads them, and says how many."""

    def __init__(self, queue: Queue[Any]) -> None:
        super().__init__(queue)
        self._lost = 0

    def enqueue(self, record: logging.LogRecord) -> None:
        try:
            if self._lost:
                self.queue.put_nowait(_missing(self._lost))
                self._lost = 0
            self.queue.put_nowait(record)
        except Full:
            self._lost += 1

    def prepare(self, record: logging.LogRecord) -> logging.LogRecord:
        """As it is: it is formatted in this process."""
        return record


class _Line(logging.Formatter):
    """One line for a message, whatever is in it; a traceback follows as it is."""

    def formatMessage(self, record: logging.LogRecord) -> str:
        said = record.message if record.name == _SAID else super().formatMessage(record)
        return (
            said if said.isprintable() else "".join(char if char.isprintable() else repr(char)[1:-1] for char in said)
        )


class _Redacting(logging.Filter):
    """What a record says of texts becomes fields of its line; in the writing thread, for it takes milliseconds."""

    def __init__(self, style: LogStyle) -> None:
        super().__init__()
        self._redact, self._json = style.redaction, style.json

    def filter(self, record: logging.LogRecord) -> bool:
        spoken = record.__dict__.pop("spoken", None)
        if isinstance(spoken, Spoken):
            shown = {
                "asked": [{"role": role, "text": self._redact.shown(text)} for role, text in spoken.asked],
                "values": {name: self._redact.shown(text) for name, text in spoken.values.items()},
                "answered": self._redact.shown(spoken.answered),
            }
            if self._json:
                record.__dict__.update(request_id=spoken.request_id, **shown)
            else:
                record.msg, record.args = f"{record.msg}: %s", (spoken.request_id, msgspec.json.encode(shown).decode())
        return True


def _missing(count: int) -> logging.LogRecord:
    said = "%d lines are missing here: they came faster than they were read"
    return logging.LogRecord(__name__, logging.WARNING, "", 0, said, (count,), None)


def _json_lines() -> logging.Formatter:
    """Times are those of RFC 3339 in UTC."""
    from pythonjsonlogger.msgspec import MsgspecFormatter

    names = {"asctime": "time", "levelname": "level", "name": "logger", "exc_info": "error", "stack_info": "stack"}
    formatter = MsgspecFormatter(["asctime", "levelname", "name", "message"], rename_fields=names)
    formatter.converter = time.gmtime
    formatter.default_time_format, formatter.default_msec_format = "%Y-%m-%dT%H:%M:%S", "%s.%03dZ"
    return formatter
