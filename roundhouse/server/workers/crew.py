"""The workers of one owner: starts them, hands each connection to the freest, starts anew what died, has them stop."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import os
import socket
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import uvicorn

from roundhouse.access.ring import KeyRing
from roundhouse.config import Settings
from roundhouse.core.errors import Error
from roundhouse.gateway import Gateway
from roundhouse.server.workers.desk import Desk
from roundhouse.server.workers.frames import Beat, Channel, FromWorker, Going, Setup, Stop, Up
from roundhouse.server.workers.handing import HandedServer, hand, take_handed

__all__ = ["Crew"]

log = logging.getLogger(__name__)
_START_S = 60.0
# Beyond `drain`, for leaving itself.
_LEAVE_S = 5.0
_ACCEPTED_AT_ONCE = 64
_PAUSE_S = 0.02
# A worker that said nothing for so long is given a connection only if there is no other.
_LATE_S = 1.5
# A worker that lived so long is started again at once; one that did not, after a pause that doubles.
_SETTLED_S = 10.0
_LONGEST_PAUSE_S = 30.0
# How often in a row a worker may be silent when it is looked at, and how much it may leave unread.
_LOOK_S = 5.0
_SILENT = 4
_UNREAD_BYTES = 256 << 20


@dataclass(slots=True)
class _Worker:
    """One process. `handed`: connections that it was given; `beat`: what it told of them last."""

    process: asyncio.subprocess.Process
    channel: Channel[FromWorker]
    desk: Desk
    way: socket.socket
    up: asyncio.Event = field(default_factory=asyncio.Event)
    began: float = field(default_factory=time.monotonic)
    handed: int = 0
    going: bool = False
    beat: Beat = field(default_factory=lambda: Beat(0, 0, [], {}))
    beats: int = 0
    beat_at: float = 0.0
    silent: int = 0

    @property
    def open(self) -> bool:
        """Whether it takes connections."""
        return self.up.is_set() and not self.going

    @property
    def connections(self) -> int:
        return self.handed - self.beat.taken + self.beat.open

    @property
    def load(self) -> int:
        """An idle connection counts once, one with a request twice."""
        return self.connections + self.desk.running


class Crew:
    """Use as an async context manager, once the gateway is open. It closes `listening` when `stop` is called.

    The owner accepts and hands over, for a socket that all accept from gives a burst to whoever wakes first, and one
    for each of them (SO_REUSEPORT) deals by chance and lets a second server steal the port.
    """

    def __init__(self, gateway: Gateway, ring: KeyRing, settings: Settings, listening: socket.socket) -> None:
        self._gateway = gateway
        self._ring = ring
        self._settings = settings
        self._listening = listening
        self._server: HandedServer | None = None
        self._workers: list[_Worker | None] = [None] * settings.server.workers
        self._keepers: list[asyncio.Task[None]] = []
        self._watching: asyncio.Task[None] | None = None
        self._restarts = 0
        self._stopping = self._accepting = False
        self._held: socket.socket | None = None
        self._all_up = asyncio.Event()
        gateway.before_reload(self._renewal)

    def server(self, config: uvicorn.Config) -> HandedServer:
        """What serves the requests that workers pass on."""
        self._server = HandedServer(config, self.stop)
        return self._server

    async def __aenter__(self) -> Crew:
        self._listening.setblocking(False)
        starting = [self._start(place) for place in range(len(self._workers))]
        try:
            async with asyncio.timeout(_START_S):
                await asyncio.gather(*(self._risen(one) for one in await asyncio.gather(*starting)))
        except (TimeoutError, OSError) as error:
            raise Error("the workers could not be started") from error
        loop = asyncio.get_running_loop()
        self._keepers = [loop.create_task(self._keep(place)) for place in range(len(self._workers))]
        self._watching = loop.create_task(self._watch())
        self._gateway.workers = self.state
        self._accept_again()
        return self

    async def __aexit__(self, *_: object) -> None:
        self.stop()
        self._gateway.workers = None
        if self._watching is not None:
            self._watching.cancel()
        waited = await asyncio.wait(self._keepers, timeout=self._settings.server.drain_s + _LEAVE_S)
        for worker in self._present():
            if waited[1]:
                log.error("worker %d did not leave in time and is ended", worker.process.pid)
                _kill(worker)
        await asyncio.gather(*self._keepers)

    def stop(self) -> None:
        """Take no new connection, and have the workers finish what they have."""
        if self._stopping:
            return
        self._stopping = True
        self._pause()
        self._listening.close()
        if self._held is not None:
            self._held.close()
        for worker in self._present():
            worker.channel.tell(Stop())

    def state(self) -> list[dict[str, Any]]:
        """Of each worker, for operators."""
        return [
            {
                "pid": worker.process.pid,
                "connections": worker.connections,
                "requests": worker.desk.running,
                "up_s": round(time.monotonic() - worker.began, 1),
            }
            for worker in self._present()
        ]

    def _present(self) -> list[_Worker]:
        return [worker for worker in self._workers if worker is not None]

    # Processes

    async def _start(self, place: int) -> _Worker:
        ours, theirs = socket.socketpair()
        way, their_way = socket.socketpair()
        with theirs, their_way:
            process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", "roundhouse.server.workers.worker"),
                *(str(theirs.fileno()), str(their_way.fileno()), str(os.getpid())),
                stdin=asyncio.subprocess.PIPE,  # its lifeline
                stdout=asyncio.subprocess.DEVNULL,
                pass_fds=(theirs.fileno(), their_way.fileno()),
                start_new_session=True,
            )
        way.setblocking(False)
        channel: Channel[FromWorker] = Channel(FromWorker, lambda frame: self._hear(worker, frame), lambda: None)
        worker = _Worker(process, channel, Desk(self._gateway, self._ring, channel.tell), way)
        await asyncio.get_running_loop().create_connection(lambda: channel, sock=ours)
        if self._server is not None:
            server = self._server
            take_handed(way, lambda connection: server.take(connection, tls=False))
        channel.tell(self._setup())
        self._workers[place] = worker
        if self._stopping:
            channel.tell(Stop())
        return worker

    async def _risen(self, worker: _Worker) -> None:
        """Wait until it takes connections. Raises `Error` if it ends before."""
        ended = asyncio.ensure_future(worker.process.wait())
        risen = asyncio.ensure_future(worker.up.wait())
        await asyncio.wait((ended, risen), return_when=asyncio.FIRST_COMPLETED)
        if not risen.done():
            risen.cancel()
            raise Error(f"a worker ended with {ended.result()} before it took a connection")
        ended.cancel()

    async def _keep(self, place: int) -> None:
        """Have a worker there until all are to stop."""
        pause_s = 0.0
        while True:
            worker = self._workers[place]
            assert worker is not None
            status = await worker.process.wait()
            self._workers[place] = None
            await self._leave_behind(worker)
            if self._stopping:
                return
            self._restarts += 1
            said = "worker %d ended with %d and is started again; %d requests that it answered were cut"
            log.error(said, worker.process.pid, status, worker.desk.lost)
            settled = time.monotonic() - worker.began >= _SETTLED_S
            pause_s = 0.0 if settled else min(_LONGEST_PAUSE_S, 2 * pause_s or 0.1)
            if pause_s > 0.1:
                await asyncio.sleep(pause_s)
            if self._stopping:
                return
            while self._workers[place] is None:
                try:
                    await self._start(place)
                except Exception:
                    log.exception("a worker could not be started")
                    await asyncio.sleep(1.0)

    async def _leave_behind(self, worker: _Worker) -> None:
        """Nothing of a worker that ended is left."""
        asyncio.get_running_loop().remove_reader(worker.way.fileno())
        worker.way.close()
        worker.channel.close()
        await worker.desk.aclose()
        if worker.process.stdin is not None:
            worker.process.stdin.close()

    def _hear(self, worker: _Worker, frame: FromWorker) -> None:
        if isinstance(frame, Up):
            worker.beat_at = time.monotonic()
            worker.up.set()
            self._accept_again()
            return
        if isinstance(frame, Going):
            worker.going = True
            return
        if isinstance(frame, Beat):
            worker.beat, worker.beats, worker.beat_at = frame, worker.beats + 1, time.monotonic()
        worker.desk.hear(frame)

    async def _watch(self) -> None:
        """End a worker that says nothing any more, or does not listen: the grants that it has are needed."""
        while True:
            seen = {id(worker): worker.beats for worker in self._present()}
            await asyncio.sleep(_LOOK_S)
            for worker in self._present():
                if not worker.up.is_set():
                    silent = time.monotonic() - worker.began > _START_S
                else:
                    worker.silent = worker.silent + 1 if worker.beats == seen.get(id(worker)) else 0
                    silent = worker.silent >= _SILENT
                if silent or worker.channel.waiting_bytes > _UNREAD_BYTES:
                    log.error("worker %d does not answer any more and is ended", worker.process.pid)
                    _kill(worker)

    # Settings

    def _setup(self) -> Setup:
        settings = self._settings
        return Setup(
            server=settings.server,
            auth=settings.auth,
            state=settings.state,
            source=settings.source,
            connections=-(-settings.server.connections // len(self._workers)),
            names=tuple(self._gateway.names()),
            asks_for_keys=self._ring.asks(),
            carries=not settings.limits.hedge_s,
            log_json=settings.telemetry.log.format == "json",
            log_level=settings.telemetry.log.level,
        )

    def _renewal(self, new: Settings) -> Callable[[], None]:
        def apply() -> None:
            self._settings = new
            for worker in self._present():
                worker.channel.tell(self._setup())

        return apply

    # Connections

    def _accept_again(self) -> None:
        if not self._accepting and not self._stopping and any(worker.open for worker in self._present()):
            self._accepting = True
            loop = asyncio.get_running_loop()
            loop.add_reader(self._listening.fileno(), self._accept)
            if self._held is not None:
                loop.call_soon(self._accept)

    def _pause(self) -> None:
        """Leave connections where they wait."""
        if self._accepting:
            self._accepting = False
            asyncio.get_running_loop().remove_reader(self._listening.fileno())

    def _accept(self) -> None:
        for _ in range(_ACCEPTED_AT_ONCE):
            connection = self._next()
            if connection is None:
                return
            if not self._handed(connection):  # every worker is behind: the kernel keeps those that wait
                self._held = connection
                self._pause()
                asyncio.get_running_loop().call_later(_PAUSE_S, self._accept_again)
                return

    def _next(self) -> socket.socket | None:
        if self._held is not None:
            held, self._held = self._held, None
            return held
        try:
            connection, _ = self._listening.accept()
        except (BlockingIOError, ConnectionAbortedError):
            return None
        except OSError as error:
            log.error("a connection cannot be accepted: %s", error.strerror or error)
            if error.errno in (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM):
                self._pause()
                asyncio.get_running_loop().call_later(1.0, self._accept_again)
            return None
        return connection

    def _handed(self, connection: socket.socket) -> bool:
        late = time.monotonic() - _LATE_S
        able = [worker for worker in self._present() if worker.open]
        for worker in sorted(able, key=lambda one: (one.beat_at < late, one.load)):
            try:
                handed = hand(worker.way, connection)
            except OSError:  # it has just died
                continue
            if handed:
                worker.handed += 1
                connection.close()
                return True
        return False


def _kill(worker: _Worker) -> None:
    with contextlib.suppress(ProcessLookupError):
        worker.process.kill()
