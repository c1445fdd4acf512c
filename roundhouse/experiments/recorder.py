"""Exposures and outcomes on their way to the disk: handed over in a microsecond, written in batches by one thread.

What is lost when the process is killed is what came within the last quarter of a second; what is on the disk is whole.
"""

from __future__ import annotations

import logging
import threading
from collections import deque

from roundhouse.core.errors import StoreError
from roundhouse.experiments.store import Exposure, Outcome, Store

__all__ = ["Recorder"]

log = logging.getLogger(__name__)
_PERIOD_S = 0.25
_MOST_WAITING = 100_000


class Recorder:
    """`lost` counts what was dropped because the disk took nothing for too long; it is logged as well."""

    def __init__(self, store: Store) -> None:
        self.lost = 0
        self._store = store
        self._waiting: deque[Exposure | Outcome] = deque()
        self._writing = threading.Lock()
        self._ended = threading.Event()
        self._failing = False
        self._thread = threading.Thread(target=self._run, name="experiments", daemon=True)
        self._thread.start()

    def record(self, *facts: Exposure | Outcome) -> None:
        """Never blocks, never raises."""
        if len(self._waiting) + len(facts) > _MOST_WAITING:
            self.lost += len(facts)
            return
        self._waiting.extend(facts)

    def flush(self) -> None:
        """Write what waits, now. Blocks. What cannot be written goes on waiting."""
        with self._writing:
            batch = [self._waiting.popleft() for _ in range(len(self._waiting))]
            if not batch:
                return
            try:
                self._store.write(
                    [one for one in batch if isinstance(one, Exposure)],
                    [one for one in batch if isinstance(one, Outcome)],
                )
                self._failing = False
            except StoreError as error:
                self._waiting.extendleft(reversed(batch))
                if not self._failing:
                    log.warning("exposures wait in memory (%d lost so far): %s", self.lost, error)
                self._failing = True

    def close(self) -> None:
        """Write what waits and end. Blocks."""
        self._ended.set()
        self._thread.join()
        self.flush()

    def _run(self) -> None:
        while not self._ended.wait(_PERIOD_S):
            self.flush()
