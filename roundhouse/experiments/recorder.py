"""Exposures and outcomes on their way to the disk: handed over in a microsecond, written in batches by one thread.

What is lost when the process is killed is what came within the last quarter of a second; what is on the disk is whole.
"""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Sequence
from dataclasses import astuple
from typing import Any

from roundhouse.core.errors import StoreError
from roundhouse.database.journal import Journal, Rows
from roundhouse.experiments.store import Exposure, Outcome, Store

__all__ = ["Recorder"]

log = logging.getLogger(__name__)
_PERIOD_S = 0.25
_MOST_WAITING = 100_000
_EXPOSURE, _OUTCOME = "exposure", "outcome"


class Recorder:
    """What the store does not take waits in the journal, if there is one, and else in memory. `lost` counts what was
    dropped because nothing took it for too long; that is logged as well.
    """

    def __init__(self, store: Store, journal: Journal | None = None) -> None:
        self._lost = 0
        self._store = store
        self._journal = journal
        self._waiting: deque[Exposure | Outcome] = deque()
        self._writing = threading.Lock()
        self._ended = threading.Event()
        self._failing = False
        self._thread = threading.Thread(target=self._run, name="experiments", daemon=True)
        self._thread.start()

    @property
    def lost(self) -> int:
        return self._lost + (self._journal.lost if self._journal is not None else 0)

    def record(self, *facts: Exposure | Outcome) -> None:
        """Never blocks, never raises."""
        if len(self._waiting) + len(facts) > _MOST_WAITING:
            self._lost += len(facts)
            return
        self._waiting.extend(facts)

    def flush(self) -> None:
        """Write what waits, now. Blocks. What cannot be written goes on waiting."""
        with self._writing:
            batch = [self._waiting.popleft() for _ in range(len(self._waiting))]
            try:
                if self._journal is not None:
                    self._journal.deliver([_row(one) for one in batch], self._write_rows)
                elif batch:
                    self._write(batch)
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
        if self._journal is not None:
            self._journal.close()

    def _write(self, facts: Sequence[Exposure | Outcome]) -> None:
        self._store.write(
            [one for one in facts if isinstance(one, Exposure)], [one for one in facts if isinstance(one, Outcome)]
        )

    def _write_rows(self, rows: Rows) -> None:
        self._write([_fact(row) for row in rows])

    def _run(self) -> None:
        while not self._ended.wait(_PERIOD_S):
            self.flush()


def _row(fact: Exposure | Outcome) -> tuple[Any, ...]:
    return (_EXPOSURE if isinstance(fact, Exposure) else _OUTCOME, *astuple(fact))


def _fact(row: Sequence[Any]) -> Exposure | Outcome:
    return Exposure(*row[1:]) if row[0] == _EXPOSURE else Outcome(*row[1:])
