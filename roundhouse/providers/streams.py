"""Decoders of streamed answers: bytes, cut anywhere, in; whole records out. No socket.

SSE: html.spec.whatwg.org/multipage/server-sent-events.html. NDJSON: one JSON value a line.
"""

from __future__ import annotations

from collections.abc import Iterator

from roundhouse.core.errors import BadResponse

__all__ = ["LINE_LIMIT_BYTES", "LineDecoder", "SSEDecoder"]

LINE_LIMIT_BYTES = 1 << 20


class LineDecoder:
    """Bytes -> lines without their ends (`\\n`, `\\r\\n` or `\\r`). Raises `BadResponse` for a line over the limit."""

    def __init__(self, limit_bytes: int = LINE_LIMIT_BYTES) -> None:
        self._limit_bytes = limit_bytes
        self._rest: list[bytes] = []  # in pieces: joined at each, a line that drips in would cost its length squared
        self._rest_bytes = 0
        self._after_return = False

    def feed(self, data: bytes) -> list[bytes]:
        """The lines that `data` completes."""
        if self._after_return and data:
            # A `\r` ended the piece before; a `\n` now belongs to the same line end.
            data = data.removeprefix(b"\n")
            self._after_return = False
        if b"\r" in data:
            self._after_return = data.endswith(b"\r")
            data = data.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
        lines = data.split(b"\n")
        rest = lines.pop()
        if lines:
            lines[0] = b"".join([*self._rest, lines[0]])
            self._rest, self._rest_bytes = [], 0
        if rest:
            self._rest.append(rest)
            self._rest_bytes += len(rest)
        if self._rest_bytes > self._limit_bytes or any(len(line) > self._limit_bytes for line in lines):
            raise BadResponse(
                f"a line of the answer is longer than {self._limit_bytes >> 10} KiB; the answer is dropped"
            )
        return lines

    def end(self) -> bytes:
        """What stood after the last line end."""
        rest = b"".join(self._rest)
        self._rest, self._rest_bytes = [], 0
        return rest


class SSEDecoder:
    """Bytes -> the data of each event. A line that is no field but a bare JSON object is an event of its own.

    That is how some servers write an error into a stream they had begun. Comments (pings) and all fields but `data`
    are passed over; an event whose blank line never came is not an event.
    """

    def __init__(self, limit_bytes: int = LINE_LIMIT_BYTES) -> None:
        self._lines = LineDecoder(limit_bytes)
        self._limit_bytes = limit_bytes
        self._data: list[bytes] = []
        self._size = 0
        self._at_start = True

    def feed(self, data: bytes) -> Iterator[bytes]:
        """The events that `data` completes, each the bytes of its data."""
        for line in self._lines.feed(data):
            if self._at_start:
                line = line.removeprefix(b"\xef\xbb\xbf")
                self._at_start = False
            if not line:
                if self._data:
                    yield self._take()
            elif line.startswith(b"data:"):
                self._add(line[6:] if line.startswith(b"data: ") else line[5:])
            elif line.startswith(b"{"):
                yield line

    def end(self) -> Iterator[bytes]:
        """A bare JSON object that the stream's end cut off from its line end."""
        rest = self._lines.end()
        if rest.startswith(b"{"):
            yield rest

    def _add(self, value: bytes) -> None:
        self._size += len(value)
        if self._size > self._limit_bytes:
            raise BadResponse(f"an event of the answer is longer than {self._limit_bytes >> 10} KiB; it is dropped")
        self._data.append(value)

    def _take(self) -> bytes:
        data = self._data[0] if len(self._data) == 1 else b"\n".join(self._data)
        self._data = []
        self._size = 0
        return data
