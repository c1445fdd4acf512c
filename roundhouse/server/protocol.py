"""uvicorn's HTTP protocol with limits on what it leaves to the client's good will: slow heads and bodies, endless
heads, answers that are never read.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Any, ClassVar

from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

__all__ = ["ENDLESS", "ConnectionLimits", "Limited", "limited"]

# Set in the scope of a request whose answer goes on until somebody leaves.
ENDLESS = "roundhouse.endless"


@dataclass(frozen=True, slots=True)
class ConnectionLimits:
    """A head must arrive within `head_s` and hold at most `head_bytes`, a whole request within `request_s`; a client
    that takes nothing of its answer for `stalled_s` is cut off.
    """

    head_s: float = 10.0
    request_s: float = 60.0
    stalled_s: float = 60.0
    head_bytes: int = 64 << 10


class _HeadTooLarge(Exception):
    pass


class Limited(HttpToolsProtocol):
    """`limits` may change at any time; a wait that has begun keeps its own."""

    limits: ClassVar[ConnectionLimits]

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._timer: asyncio.TimerHandle | None = None
        self._stalled: asyncio.TimerHandle | None = None
        self._in_head = self._arriving = False
        self._head_bytes = 0
        self._head_too_large = False

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._timer = self.loop.call_later(self.limits.head_s, self._cut_off)

    def connection_lost(self, exc: Exception | None) -> None:
        self._forget_timer()
        if self._stalled is not None:
            self._stalled.cancel()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self._in_head or not self._arriving:
            self._head_bytes += len(data)
        super().data_received(data)
        if self.parser is None or self.transport.is_closing():
            return
        if self._in_head and self._head_bytes > self.limits.head_bytes:
            self._head_too_large = True
            self.send_400_response("")
        elif not self._arriving:
            self._forget_timer()
        elif self._timer is None:
            limit_s = self.limits.head_s if self._in_head else self.limits.request_s
            self._timer = self.loop.call_later(limit_s, self._cut_off)

    def on_message_begin(self) -> None:
        self._arriving = self._in_head = True
        super().on_message_begin()

    def on_headers_complete(self) -> None:
        self._in_head = False
        self._forget_timer()
        if self._head_bytes > self.limits.head_bytes:
            size = len(self.url) + sum(len(name) + len(value) for name, value in self.headers)
            if size > self.limits.head_bytes:
                self._head_too_large = True
                raise _HeadTooLarge
        self._head_bytes = 0
        super().on_headers_complete()

    def on_message_complete(self) -> None:
        self._arriving = False
        super().on_message_complete()

    def send_400_response(self, msg: str) -> None:
        if not self._head_too_large:
            super().send_400_response(msg)
            return
        self.transport.write(STATUS_LINE[431] + b"content-length: 0\r\nconnection: close\r\n\r\n")
        self.transport.close()

    def shutdown(self) -> None:
        """The server stops: what runs may end by itself, but an endless answer never would."""
        super().shutdown()
        if self.cycle is not None and self.cycle.scope.get(ENDLESS):
            self.transport.close()

    def pause_writing(self) -> None:
        super().pause_writing()
        if self._stalled is None:
            self._stalled = self.loop.call_later(self.limits.stalled_s, self.transport.abort)

    def resume_writing(self) -> None:
        super().resume_writing()
        if self._stalled is not None:
            self._stalled.cancel()
            self._stalled = None

    def _forget_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _cut_off(self) -> None:
        self._timer = None
        self.transport.close()


def limited(limits: ConnectionLimits) -> type[Limited]:
    """The protocol with these limits, for uvicorn's `http` setting."""
    return type("LimitedProtocol", (Limited,), {"limits": limits})
