"""Requests on their way to the disk: handed over in a microsecond, written in batches by one thread.

What is lost when the process is killed is what came within the last half second; what is on the disk is whole.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from dataclasses import dataclass
from pathlib import Path

from roundhouse.core.errors import StoreError
from roundhouse.history.store import Damaged, Newer, Writer, row_of, set_aside
from roundhouse.telemetry.events import Event, RequestEnded

__all__ = ["Policy", "Recorder"]

log = logging.getLogger(__name__)
_PERIOD_S = 0.5
_AGAIN_S = 10.0  # after a failure: a full disk is not asked twice a second
_TIDY_S = 60.0
_MOST_WAITING = 50_000  # of some 500 bytes: at most 25 MB while a disk takes nothing


@dataclass(frozen=True, slots=True)
class Policy:
    """Where requests are kept, for how long (seconds) and in how large a file (bytes) at most."""

    path: Path
    retention_s: float
    most_bytes: int


class Recorder:
    """`policy` may be exchanged at any time; None = nothing is kept. `lost`: how many requests were dropped, because
    the disk took nothing for too long; that is logged as well.
    """

    def __init__(self, policy: Policy | None) -> None:
        self.policy = policy
        self.lost = 0
        self._waiting: deque[tuple[float, RequestEnded]] = deque()
        self._writing = threading.Lock()
        self._ended = threading.Event()
        self._writer: Writer | None = None
        self._faulty = ""
        self._again_at = 0.0
        self._tidy_at = 0.0
        self._thread = threading.Thread(target=self._run, name="history", daemon=True)
        self._thread.start()

    def record(self, event: Event) -> None:
        """Keep a request; other events are none of ours. Never blocks, never raises."""
        if self.policy is None or not isinstance(event, RequestEnded):
            return
        if len(self._waiting) >= _MOST_WAITING:
            self.lost += 1
            return
        self._waiting.append((time.time(), event))

    def flush(self) -> None:
        """Write what waits, now. Blocks. What cannot be written goes on waiting."""
        with self._writing:
            policy = self.policy
            if policy is None:
                self._leave()
                self._waiting.clear()
                return
            batch = [self._waiting.popleft() for _ in range(len(self._waiting))]
            try:
                self._write(policy, batch)
            except Newer as error:
                self._fail(error)
                self.lost += len(batch)
            except StoreError as error:
                self._waiting.extendleft(reversed(batch))
                self._fail(error)

    def close(self) -> None:
        """Write what waits and end. Blocks."""
        self._ended.set()
        self._thread.join()
        self.flush()
        if self._waiting:
            log.warning("%d requests are missing in the history", len(self._waiting))
        self._leave()

    def _write(self, policy: Policy, batch: list[tuple[float, RequestEnded]]) -> None:
        now = time.monotonic()
        tidy = now >= self._tidy_at
        if not batch and not tidy:
            return
        try:
            writer = self._opened(policy.path)
            if batch:
                writer.write([row_of(event, at) for at, event in batch])
                batch.clear()  # they are there, whatever becomes of the rest
            if tidy:
                self._tidy_at = now + _TIDY_S
                writer.retain(time.time() - policy.retention_s, policy.most_bytes)
        except Damaged as error:
            self._replace(policy.path, error)
            self._opened(policy.path).write([row_of(event, at) for at, event in batch])
        if self._faulty:
            log.warning("the history is written again (%d requests were lost)", self.lost)
            self._faulty = ""

    def _opened(self, path: Path) -> Writer:
        """The writer of `path`: another one after that has changed, or somebody has removed the file."""
        if self._writer is not None and (self._writer.path != path or not self._writer.in_place):
            self._leave()
        if self._writer is None:
            self._writer = Writer(path)
        return self._writer

    def _replace(self, path: Path, error: Damaged) -> None:
        """Begin a new file. If another process has done so already, that one is used."""
        theirs = self._writer is not None and not self._writer.in_place
        self._leave()
        if theirs:
            return
        try:
            aside = set_aside(path)
        except OSError as refused:
            raise StoreError(f"{error}, nor be renamed: {refused}", path=str(path)) from refused
        log.warning("%s; it was renamed %s and a new one begun", error, aside.name)

    def _leave(self) -> None:
        writer, self._writer = self._writer, None
        if writer is not None:
            writer.close()

    def _fail(self, error: StoreError) -> None:
        self._leave()
        self._again_at = time.monotonic() + _AGAIN_S
        if not self._faulty:
            log.warning("requests are not in the history for now (%d lost so far): %s", self.lost, error)
        self._faulty = str(error)

    def _run(self) -> None:
        while not self._ended.wait(_PERIOD_S):
            if time.monotonic() >= self._again_at:
                self.flush()
