"""Scores answers for experiments in a thread of its own, so that no request waits for a scorer."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from queue import Empty, Full, Queue

from roundhouse.core.errors import InvalidRequest
from roundhouse.experiments.store import Exposure, Outcome
from roundhouse.scoring.scorers import Scored, Scorer, find, score

__all__ = ["Marking"]

log = logging.getLogger(__name__)
_MOST_WAITING = 1_000
_STOP_S = 5.0


@dataclass(frozen=True, slots=True)
class _Task:
    scorers: tuple[str, ...]
    given: Scored
    exposure: Exposure


class Marking:
    """`record` is given the outcomes. `lost`: answers that were not scored, for scorers were too slow or failed."""

    def __init__(self, record: Callable[[Outcome], None]) -> None:
        self.lost = 0
        self._record = record
        self._waiting: Queue[_Task] = Queue(_MOST_WAITING)
        self._ended = threading.Event()
        self._scorers: dict[str, Scorer] = {}
        self._failing: set[str] = set()
        self._thread: threading.Thread | None = None

    def mark(self, scorers: tuple[str, ...], given: Scored, exposure: Exposure) -> None:
        """Never blocks, never raises."""
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="marking", daemon=True)
            self._thread.start()
        try:
            self._waiting.put_nowait(_Task(scorers, given, exposure))
        except Full:
            if not self.lost:
                log.warning("scorers are slower than answers come: some are not scored")
            self.lost += 1

    def close(self) -> None:
        """Score what waits; blocks for five seconds at most."""
        self._ended.set()
        if self._thread is not None:
            self._thread.join(_STOP_S)

    def _run(self) -> None:
        until = 0.0
        while True:
            try:
                task = self._waiting.get(timeout=0.2)
            except Empty:
                if self._ended.is_set():
                    return
                continue
            if self._ended.is_set():
                until = until or time.monotonic() + _STOP_S
                if time.monotonic() > until:
                    return
            for name in task.scorers:
                self._one(name, task)

    def _one(self, name: str, task: _Task) -> None:
        try:
            if name not in self._scorers:
                self._scorers[name] = find(name)
            value = score(name, self._scorers[name], task.given)
        except InvalidRequest as error:
            self.lost += 1
            if name not in self._failing:
                log.warning("an answer is not scored: %s", error)
            self._failing.add(name)
            return
        self._failing.discard(name)
        self._record(Outcome(task.exposure.unit, task.exposure.id, name, value, time.time()))
