"""Requests on their way to the disk: handed over in a microsecond, written in batches by one thread.

What is lost when the process is killed is what came within the last half second; what is on the disk is whole.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from roundhouse.core.errors import StoreError
from roundhouse.database import Damaged, Newer, Place, Unavailable
from roundhouse.database.journal import Journal, Rows
from roundhouse.history.store import Writer, row_of, set_aside
from roundhouse.telemetry.events import Event, RequestEnded

__all__ = ["Policy", "Recorder"]

log = logging.getLogger(__name__)
_PERIOD_S = 0.5
_AGAIN_S = 10.0  # after a failure: a full disk is not asked twice a second
_TIDY_S = 60.0
_JOURNAL_BYTES = 256 << 20
_MOST_WAITING = 50_000  # of some 500 bytes: at most 25 MB while a disk takes nothing


@dataclass(frozen=True, slots=True)
class Policy:
    """Where requests are kept, for how long (seconds) and in how large a file (bytes) at most. `journal`: the folder
    where they wait while a database is away, None = in memory.
    """

    place: Place
    retention_s: float
    most_bytes: int
    journal: Path | None = None


class Recorder:
    """`policy` may be exchanged at any time; None = nothing is kept. `lost`: how many requests were dropped, because
    the disk took nothing for too long; that is logged as well.
    """

    def __init__(self, policy: Policy | None) -> None:
        self.policy = policy
        self._lost = 0
        self._waiting: deque[tuple[float, RequestEnded]] = deque()
        self._writing = threading.Lock()
        self._ended = threading.Event()
        self._writer: Writer | None = None
        self._journal: Journal | None = None
        self._faulty = ""
        self._again_at = 0.0
        self._tidy_at = 0.0
        self._thread = threading.Thread(target=self._run, name="history", daemon=True)
        self._thread.start()

    @property
    def lost(self) -> int:
        return self._lost + (self._journal.lost if self._journal is not None else 0)

    def record(self, event: Event) -> None:
        """Keep a request; other events are none of ours. Never blocks, never raises."""
        if self.policy is None or not isinstance(event, RequestEnded):
            return
        if len(self._waiting) >= _MOST_WAITING:
            self._lost += 1
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
                if policy.journal is not None:
                    self._deliver(policy, policy.journal, batch)
                else:
                    self._write(policy, batch)
                self._tidy(policy)
            except Newer as error:
                self._fail(error)
                self._lost += len(batch)
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
        if self._journal is not None:
            self._journal.close()
        self._leave()

    def _write(self, policy: Policy, batch: list[tuple[float, RequestEnded]]) -> None:
        """Into a file; one that is damaged is set aside, and a new one begun. `batch` is empty once it is there,
        whatever becomes of the rest.
        """
        if not batch:
            return
        rows = _rows(batch)
        try:
            self._opened(policy.place).write(rows)
        except Damaged as error:
            self._replace(policy.place, error)
            self._opened(policy.place).write(rows)
        batch.clear()
        self._recovered()

    def _deliver(self, policy: Policy, folder: Path, batch: list[tuple[float, RequestEnded]]) -> None:
        """Into a database, or into the journal while that is away."""
        if self._journal is None:
            self._journal = Journal(folder, "requests", _JOURNAL_BYTES)

        def write(rows: Rows) -> None:
            self._opened(policy.place).write(rows)

        self._journal.deliver(_rows(batch), write)
        batch.clear()
        self._recovered()

    def _tidy(self, policy: Policy) -> None:
        now = time.monotonic()
        if now < self._tidy_at or (self._journal is not None and self._journal.waiting):
            return
        self._tidy_at = now + _TIDY_S
        try:
            self._opened(policy.place).retain(time.time() - policy.retention_s, policy.most_bytes)
        except Damaged as error:
            self._replace(policy.place, error)
        except Unavailable:
            if self._journal is None:
                raise
            # What is old can wait as long as what is new does.

    def _recovered(self) -> None:
        if self._faulty:
            log.warning("the history is written again (%d requests were lost)", self.lost)
            self._faulty = ""

    def _opened(self, place: Place) -> Writer:
        """The writer of `place`: another one after that has changed, or somebody has removed the file."""
        if self._writer is not None and (self._writer.place != place or not self._writer.in_place):
            self._leave()
        if self._writer is None:
            self._writer = Writer(place)
        return self._writer

    def _replace(self, place: Place, error: Damaged) -> None:
        """Begin a new file. If another process has done so already, that one is used."""
        theirs = self._writer is not None and not self._writer.in_place
        self._leave()
        if theirs or not isinstance(place, Path):
            return
        try:
            aside = set_aside(place)
        except OSError as refused:
            raise StoreError(f"{error}, nor be renamed: {refused}", path=str(place)) from refused
        log.warning("%s; it was renamed %s and a new one begun", error, aside.name)

    def _leave(self) -> None:
        writer, self._writer = self._writer, None
        if writer is not None:
            writer.close()

    def _fail(self, error: StoreError) -> None:
        self._leave()
        if self._journal is None:  # which must be given what comes, whatever else is wrong
            self._again_at = time.monotonic() + _AGAIN_S
        if not self._faulty:
            log.warning("requests are not in the history for now (%d lost so far): %s", self.lost, error)
        self._faulty = str(error)

    def _run(self) -> None:
        while not self._ended.wait(_PERIOD_S):
            if time.monotonic() >= self._again_at:
                self.flush()


def _rows(batch: Sequence[tuple[float, RequestEnded]]) -> list[tuple[object, ...]]:
    return [row_of(event, at) for at, event in batch]
