"""Who is told of every request besides the metrics: the history, a collector, the watch for drift, the log."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Hashable, Iterator, Sequence
from typing import TYPE_CHECKING

from roundhouse.config import Settings
from roundhouse.core.trace import TraceContext
from roundhouse.gateway.drift import Drifts, baselines_path
from roundhouse.gateway.exporting import backends_of, export_of, is_wanted
from roundhouse.gateway.house import House
from roundhouse.gateway.keeping import history_policy
from roundhouse.history.recorder import Recorder
from roundhouse.telemetry.events import Event, Tell
from roundhouse.telemetry.log import Log, Spoken

if TYPE_CHECKING:
    from prometheus_client import CollectorRegistry

    from roundhouse.telemetry.otlp.export import Export

__all__ = ["Observers"]


class Observers:
    """Opened before the house, for it tells of its very beginning; closed after it, for it tells of its end."""

    def __init__(self, settings: Settings, *, history: bool, exports: bool, watches: bool, log: Log | None) -> None:
        self._keeps_history = history
        self._may_export = exports
        self._exports = exports and is_wanted(settings)
        self._watches = watches
        self._log = log
        self._history: Recorder | None = None
        self._export: Export | None = None
        self._registry: CollectorRegistry | None = None
        self._told_by: Hashable = None
        self._closing: set[asyncio.Task[None]] = set()
        self.drifts: Drifts | None = None

    def open(self, settings: Settings) -> Iterator[Tell]:
        """Whom the house is to tell."""
        if self._keeps_history:
            self._history = Recorder(history_policy(settings))
            yield self._history.record
        if self._may_export:
            if self._exports:
                self._export, self._told_by = export_of(settings), _style(settings)
            yield self._exported
        if self._log is not None:
            yield self._log.request

    def join(self, house: House) -> None:
        """Those who need the house itself."""
        self._registry = house.meter.registry
        if self._export is not None:
            self._registry.register(self._export)
        if self._watches:
            self.drifts = Drifts(house.settings, house.manager, house.tell, baselines_path())
            house.listen(self.drifts.record)

    def prepare(self, settings: Settings) -> Callable[[], None]:
        """How to go on by these settings; raises `ConfigError` for what cannot be, and then nothing has changed."""
        wanted = self._may_export and is_wanted(settings)
        return lambda: self._adopt(settings, exports=wanted)

    def _adopt(self, settings: Settings, *, exports: bool) -> None:
        if self._history is not None:
            self._history.policy = history_policy(settings)
        if exports != (self._export is not None) or (exports and _style(settings) != self._told_by):
            self._exchange(export_of(settings) if exports else None, _style(settings))
        elif self._export is not None:
            self._export.backends = backends_of(settings)
        if self.drifts is not None:
            self.drifts.adopt(settings)

    def _exchange(self, new: Export | None, told_by: Hashable) -> None:
        """From now on `new` is told. The old one delivers what it has, on a thread, and makes nobody wait."""
        assert self._registry is not None
        old, self._export, self._told_by = self._export, new, told_by
        if old is not None:
            self._registry.unregister(old)
            task = asyncio.get_running_loop().create_task(asyncio.to_thread(old.close))
            self._closing.add(task)
            task.add_done_callback(self._closing.discard)
        if new is not None:
            self._registry.register(new)

    def _exported(self, event: Event) -> None:
        if self._export is not None:
            self._export.record(event)

    async def leave(self) -> None:
        """To be called while the house still stands."""
        drifts, self.drifts = self.drifts, None
        if drifts is not None:
            await drifts.aclose()

    async def aclose(self) -> None:
        """Write and deliver what waits."""
        history, self._history = self._history, None
        if history is not None:
            await asyncio.to_thread(history.close)
        export, self._export = self._export, None
        if export is not None:
            await asyncio.to_thread(export.close)
        await asyncio.gather(*self._closing)

    def begin(self, headers: Sequence[tuple[bytes, bytes]] = ()) -> TraceContext | None:
        """The trace of a request that has just come; None = nobody is told of traces."""
        return None if self._export is None else self._export.begin(headers)

    @property
    def of_texts(self) -> list[Callable[[Spoken], None]]:
        """Who wants to be told of texts too."""
        return [one.content for one in (self._log, self._export) if one is not None and one.wants_content]


def _style(settings: Settings) -> Hashable:
    """What a collector is told by: if it differs, the way to it is built anew."""
    log, asked = settings.telemetry.log, settings.telemetry.otlp
    headers = () if asked is None else tuple(sorted(asked.headers.items()))  # which no repr shows
    return repr((asked, log.redact, log.redact_also)), headers
