"""What a request and a streamed piece cost the owner of the engines and its workers, in processor time.

From that, how many streams would fill two cores: with one process, which can use only one, and with workers. Mock,
server and load are processes of their own on the same cores; what passes is bound by all of them, processor time is
not.
"""

from __future__ import annotations

from dataclasses import dataclass

import psutil
import uvloop

from benchmarks.paced import PERIOD_S, PIECES, longest_pause
from benchmarks.processes import Running, mock_backend, served
from benchmarks.relay import throughput
from benchmarks.report import Row

__all__ = ["run"]

_SECONDS = 2.0
_STREAMS = 200  # for each process that relays: how full a process is decides how many pieces a wake-up finds
_ROUNDS = 2
_TOKENS = 200  # of the answer for which streams are counted


@dataclass(frozen=True, slots=True)
class _Cost:
    """Seconds of processor time in the owner, and in all workers together."""

    owner: float
    workers: float

    def per(self, count: float) -> _Cost:
        return _Cost(self.owner / count, self.workers / count)

    def without(self, other: _Cost, of: float) -> _Cost:
        """What each of `of` costs beyond `other`."""
        return _Cost((self.owner - other.owner) / of, (self.workers - other.workers) / of)

    def said(self) -> str:
        return f"owner {self.owner * 1e6:.1f} µs, worker {self.workers * 1e6:.1f} µs"


def run() -> list[Row]:
    rows, carried = [], []
    for workers in (1, 2):
        with mock_backend() as mock, served(mock.url, workers=workers) as server:
            uvloop.run(throughput(server.url))
            request, rate = _requests(server)
        with (
            mock_backend(PIECES, PERIOD_S) as mock,
            served(mock.url, slots=workers * _STREAMS, workers=workers) as server,
        ):
            uvloop.run(longest_pause(server.url, 8))
            piece = _streams(server, workers * _STREAMS).without(request, PIECES)
        carried.append(_carried(request, piece, workers))
        named = "one process" if workers == 1 else f"{workers} workers"
        rows += [
            Row(f"processor time of a request, {named}", request.said(), "", None, f"{rate:.0f} requests/s"),
            Row(f"processor time of a streamed piece, {named}", piece.said(), "", None),
        ]
    one, two = carried
    said = f"{two / one:.2f} times as many as one process ({two:.0f} to {one:.0f})"
    return [
        *rows,
        Row("streams of 50 tokens/s that fill two cores, by workers", said, ">= 1.6 times", two >= 1.6 * one),
    ]


def _requests(server: Running) -> tuple[_Cost, float]:
    before = _spent(server)
    rate = uvloop.run(throughput(server.url))
    return _since(server, before).per(rate * _SECONDS), rate


def _streams(server: Running, streams: int) -> _Cost:
    before = _spent(server)
    uvloop.run(longest_pause(server.url, streams))
    return _since(server, before).per(streams * _ROUNDS)


def _carried(request: _Cost, piece: _Cost, workers: int) -> float:
    """Streams that fill a core with one process, and two cores with workers, if nothing else used them."""
    rate, cores = 1 / PERIOD_S, min(2, workers)
    each = (request.owner + request.workers) / _TOKENS + piece.owner + piece.workers
    return cores / (each * rate)


def _spent(server: Running) -> _Cost:
    """Up to now. Only workers are children: the backend is attached."""
    owner = psutil.Process(server.pid)
    workers = sum(sum(one.cpu_times()[:2]) for one in owner.children())
    return _Cost(sum(owner.cpu_times()[:2]), workers)


def _since(server: Running, before: _Cost) -> _Cost:
    now = _spent(server)
    return _Cost(now.owner - before.owner, now.workers - before.workers)
