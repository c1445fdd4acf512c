"""Open connections that one process hands to another."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable

import uvicorn
from starlette.types import Scope

from roundhouse.server.serving import Server

__all__ = ["HandedServer", "hand", "take_handed"]


def hand(way: socket.socket, connection: socket.socket) -> bool:
    """Pass `connection` on; False if the other process takes none just now. Its own copy is the caller's to close."""
    try:
        socket.send_fds(way, [b"c"], [connection.fileno()])
    except BlockingIOError:
        return False
    return True


def take_handed(way: socket.socket, take: Callable[[socket.socket], None]) -> None:
    """Give `take` every connection that comes by `way`, from now on. The loop must be running."""
    loop = asyncio.get_running_loop()

    def ready() -> None:
        while True:
            try:
                data, descriptors, _, _ = socket.recv_fds(way, 1, 1)
            except BlockingIOError:
                return
            except OSError:
                data, descriptors = b"", []
            for descriptor in descriptors:
                connection = socket.socket(fileno=descriptor)
                connection.setblocking(False)
                take(connection)
            if not data:  # the other process is gone
                loop.remove_reader(way.fileno())
                return

    way.setblocking(False)
    loop.add_reader(way.fileno(), ready)


class HandedServer(Server):
    """For connections that somebody else has accepted. `taken` counts them; `ending` is told when it stops,
    after which it serves what is on its way to it still.
    """

    taken = 0

    def __init__(self, config: uvicorn.Config, ending: Callable[[], None] = lambda: None) -> None:
        super().__init__(config)
        self._ending = ending
        self._opening: set[asyncio.Task[None]] = set()

    @property
    def open(self) -> int:
        return len(self.server_state.connections) + len(self._opening)

    def take(self, connection: socket.socket, *, tls: bool = True) -> None:
        self.taken += 1
        task = asyncio.get_running_loop().create_task(self._open(connection, tls=tls), name="handed connection")
        self._opening.add(task)
        task.add_done_callback(self._opening.discard)

    def cut(self, scope: Scope) -> None:
        """Close the connection of a request whose answer cannot be finished, so that nobody takes it for whole."""
        for connection in list(self.server_state.connections):
            cycle = getattr(connection, "cycle", None)
            if cycle is not None and cycle.scope is scope:
                connection.transport.close()

    async def _open(self, connection: socket.socket, *, tls: bool) -> None:
        loop = asyncio.get_running_loop()
        secure = self.config.ssl if tls else None
        limit_s = self.handshake_s if secure else None
        try:
            await loop.connect_accepted_socket(self.protocol, connection, ssl=secure, ssl_handshake_timeout=limit_s)
        except OSError:  # it hung up already, speaks no TLS, or never ends its handshake
            connection.close()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        self._ending()
        await super().shutdown(sockets)
