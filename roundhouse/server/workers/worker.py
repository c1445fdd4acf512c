"""The program of a worker: takes connections from the owner, parses, asks the owner who answers, streams from there.

`python -m roundhouse.server.workers.worker CHANNEL WAY OWNER`: two inherited sockets, and the process that is to be our
parent. It ends when its standard input does.
"""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import sys
from dataclasses import dataclass
from functools import partial

import uvicorn
from starlette.types import Scope

from roundhouse.access.caller import Caller
from roundhouse.config import Settings
from roundhouse.engines import lifeline
from roundhouse.server.access import open_ring
from roundhouse.server.context import user_of
from roundhouse.server.guard import LOOPBACK_HOSTS, Entrance
from roundhouse.server.paths import answerings
from roundhouse.server.serving import config_of, renewal_of, settle
from roundhouse.server.tls import tls_files
from roundhouse.server.workers.clients import Clients
from roundhouse.server.workers.distant import Distant
from roundhouse.server.workers.frames import Beat, Going, Setup, Up
from roundhouse.server.workers.handing import HandedServer, hand, take_handed
from roundhouse.server.workers.link import Link
from roundhouse.server.workers.metering import WorkersGuard
from roundhouse.server.workers.relay import Relay
from roundhouse.telemetry.log import Log, LogStyle

__all__ = ["main"]

_BEAT_S = 0.25


@dataclass(slots=True)
class _Answers:
    """What `Answering` needs."""

    gateway: Distant
    body_limit_bytes: int
    names: tuple[str, ...]

    def user_of(self, scope: Scope, name: str) -> Caller:
        return user_of(scope, name, lambda: self.names)

    async def check_prompt(self, caller: Caller, name: str) -> None:
        if caller.routes:
            await self.gateway.find(name)


class _Worker:
    """Built by the first `Setup`; those that follow change it."""

    def __init__(self, setup: Setup, link: Link, way: socket.socket) -> None:
        settings = _settings(setup)
        self._link = link
        self._way = way
        self._log = Log(_style(setup))
        self._clients = Clients()
        self._distant = Distant(link, self._clients)
        self._answers = _Answers(self._distant, settings.server.body_limit_mib << 20, setup.names)
        self._ring = open_ring(settings, required=setup.asks_for_keys)
        self._relay = Relay(
            partial(hand, way), lambda scope: self.server.cut(scope), lambda: self._answers.body_limit_bytes
        )
        answered = answerings(self._answers, lambda: self._answers.names)
        self._guard = WorkersGuard(
            {("POST", path): Entrance(app, metered=True) for path, app in answered.items()},
            self._relay,
            self._ring,
            link,
            hosts=(*LOOPBACK_HOSTS, *settings.server.hosts),
            origins=settings.server.origins,
            body_limit_bytes=lambda: self._answers.body_limit_bytes,
        )
        self._guard.carries = setup.carries
        self._config = config_of(
            self._guard, settings.server, tls_files(settings), connections=setup.connections, lifespan="off"
        )
        self.server = HandedServer(self._config, lambda: link.tell(Going()))

    def renew(self, setup: Setup) -> None:
        """Everything has been checked by the owner."""
        settings = _settings(setup)
        self._ring.follow(open_ring(settings))
        self._ring.required = self._ring.required or setup.asks_for_keys
        self._guard.admit((*LOOPBACK_HOSTS, *settings.server.hosts), settings.server.origins)
        self._guard.carries = setup.carries
        self._answers.names = setup.names
        self._answers.body_limit_bytes = settings.server.body_limit_mib << 20
        renewal_of(self._config)(settings)()
        self._config.limit_concurrency = setup.connections
        self._log.apply(_style(setup))

    async def run(self) -> None:
        """Until it is told to stop."""
        settle()
        take_handed(self._way, self.server.take)
        self._link.tell(Up())
        beating = asyncio.create_task(self._beat(), name="beat")
        try:
            await self.server.serve(sockets=[])
        finally:
            beating.cancel()
            await self._relay.aclose()
            await self._clients.aclose()
            self._log.close()

    async def _beat(self) -> None:
        while True:
            await asyncio.sleep(_BEAT_S)
            begun, moved = self._distant.begun(), self._clients.moved()
            self._link.tell(Beat(self.server.taken, self.server.open, begun, moved))


async def _work(channel: socket.socket, way: socket.socket) -> None:
    first: asyncio.Future[Setup] = asyncio.get_running_loop().create_future()
    worker: list[_Worker] = []

    def setup(told: Setup) -> None:
        if worker:
            worker[0].renew(told)
        else:
            first.set_result(told)

    def stop() -> None:
        if not worker:
            os._exit(0)
        worker[0].server.should_exit = True

    link = Link(setup, stop, lambda: os._exit(0))  # without its owner a worker can finish nothing
    await asyncio.get_running_loop().create_connection(lambda: link.channel, sock=channel)
    worker.append(_Worker(await first, link, way))
    await worker[0].run()


def _settings(setup: Setup) -> Settings:
    """What concerns the server alone."""
    return Settings(server=setup.server, auth=setup.auth, state=setup.state, source=setup.source)


def _style(setup: Setup) -> LogStyle:
    """Requests and their texts are told by the owner."""
    return LogStyle(json=setup.log_json, level=setup.log_level)


def main() -> None:
    channel, way, owner = (int(argument) for argument in sys.argv[1:])
    lifeline.hold(sys.stdin.buffer, parent=owner)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)  # the owner reads the configuration, and tells us
    with asyncio.Runner(loop_factory=uvicorn.Config("").get_loop_factory()) as runner:
        runner.run(_work(socket.socket(fileno=channel), socket.socket(fileno=way)))
    os._exit(0)  # an interpreter that ends would wait for the thread that reads the lifeline


if __name__ == "__main__":
    main()
