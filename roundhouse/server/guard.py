"""The first thing a request meets: is it for us, from a page of ours, with a key, and within what that key may.

Then the table of paths. Raw ASGI, since every request passes here.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from roundhouse.access.caller import ANYONE
from roundhouse.access.keys import Role
from roundhouse.access.ring import KeyRing
from roundhouse.core.errors import Error, InvalidRequest, NotAllowed
from roundhouse.server.context import CALLER
from roundhouse.server.errors import form_of
from roundhouse.server.exchange import send_error

__all__ = ["LOOPBACK_HOSTS", "SECURITY_HEADERS", "Entrance", "Guard"]

log = logging.getLogger(__name__)

# A page of another site could reach a loopback server by a name of its own that resolves to 127.0.0.1; it cannot
# choose the Host header, though. (https://en.wikipedia.org/wiki/DNS_rebinding)
LOOPBACK_HOSTS = ("localhost", "127.0.0.1", "[::1]")

# Sent with every answer. The page loads nothing from elsewhere and may not be framed.
SECURITY_HEADERS = (
    ("x-content-type-options", "nosniff"),
    ("x-frame-options", "DENY"),
    ("referrer-policy", "no-referrer"),
    ("cross-origin-resource-policy", "same-origin"),
)
_REMEMBERED_HOSTS = 256
_CORS_METHODS = b"GET, POST, DELETE"


@dataclass(frozen=True, slots=True)
class Entrance:
    """`role` None: open to whoever may reach the server. `metered`: it counts against a key's rates."""

    app: ASGIApp
    role: Role | None = Role.CLIENT
    metered: bool = False


class Guard:
    """`entrances` by method and path. What is not among them goes to `otherwise`, with the role that `prefixes` give
    its path: a path that nobody knows is told to be unknown to clients too.
    """

    def __init__(
        self,
        entrances: Mapping[tuple[str, str], Entrance],
        otherwise: ASGIApp,
        prefixes: Mapping[str, Role | None],
        ring: KeyRing,
        *,
        hosts: Sequence[str],
        origins: Sequence[str] = (),
    ) -> None:
        self._entrances = entrances
        self._otherwise = otherwise
        self._prefixes = {"/admin/": Role.ADMIN, **prefixes}
        self._ring = ring
        self.admit(hosts, origins)

    def admit(self, hosts: Sequence[str], origins: Sequence[str]) -> None:
        """From now on only these Host headers are answered, and only pages of these origins."""
        self._hosts = tuple(host.lower() for host in hosts)
        self._origins = frozenset(origin.lower().rstrip("/") for origin in origins)
        self._good_hosts: set[bytes] = set()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._otherwise(scope, receive, send)
            return
        try:
            headers = dict(scope["headers"])
            self._check_host(headers.get(b"host", b""))
            if b"origin" in headers or b"sec-fetch-site" in headers:
                send = self._checked_origin(scope, headers, send)
                if scope["method"] == "OPTIONS":
                    await _preflight(send)
                    return
            await self._enter(scope, headers, receive, send)
        except Error as error:
            await send_error(send, error, form_of(scope["path"]))
        except Exception as error:
            log.exception("%s %s failed", scope["method"], scope["path"])
            if isinstance(error, RuntimeError) and "response" in str(error):
                raise  # it was being answered already; the connection is closed by the server
            said = Error("Roundhouse made a mistake of its own; its log has the details")
            await send_error(send, said, form_of(scope["path"]))

    async def _enter(self, scope: Scope, headers: Mapping[bytes, bytes], receive: Receive, send: Send) -> None:
        entrance = self._entrances.get((scope["method"], scope["path"])) or self._other(scope["path"])
        if entrance.role is None:
            await entrance.app(scope, receive, send)
            return
        caller = self._ring.caller(_secret(headers)) if self._ring.asks() else ANYONE
        if caller is ANYONE:
            await entrance.app(scope, receive, send)
            return
        if entrance.role is Role.ADMIN and caller.role is not Role.ADMIN:
            raise NotAllowed(f'the key "{caller.name}" has the role client; this wants the role admin')
        scope[CALLER] = caller
        if not entrance.metered:
            await entrance.app(scope, receive, send)
            return
        caller.enter(time.monotonic())
        try:
            await entrance.app(scope, receive, send)
        finally:
            caller.leave()

    def _other(self, path: str) -> Entrance:
        role = next((role for prefix, role in self._prefixes.items() if path.startswith(prefix)), Role.CLIENT)
        return Entrance(self._otherwise, role)

    def _check_host(self, host: bytes) -> None:
        if host in self._good_hosts:
            return
        name = host.decode("latin-1").lower()
        bare = name[: name.rfind("]") + 1] if name.startswith("[") else name.partition(":")[0]
        if not any(bare == one or one == "*" or (one[:2] == "*." and bare.endswith(one[1:])) for one in self._hosts):
            raise _WrongHost("this server does not answer to that Host; add it to server.hosts if it should")
        if len(self._good_hosts) < _REMEMBERED_HOSTS:
            self._good_hosts.add(host)

    def _checked_origin(self, scope: Scope, headers: Mapping[bytes, bytes], send: Send) -> Send:
        """Raises `NotAllowed` for what a page of another site sends; `send` with CORS headers for one that may."""
        origin = headers.get(b"origin")
        if origin is None:
            navigates = headers.get(b"sec-fetch-mode") == b"navigate" and scope["method"] == "GET"
            if headers.get(b"sec-fetch-site") == b"cross-site" and not navigates:
                raise NotAllowed("pages of other sites may not ask this server")
            return send
        said = origin.decode("latin-1").lower()
        if said.partition("://")[2].encode("latin-1") == headers[b"host"].lower():
            return send
        if said not in self._origins:
            raise NotAllowed("pages of this origin may not ask this server; add it to server.origins if they should")
        return _with_cors(send, origin)


class _WrongHost(InvalidRequest):
    pass


def _secret(headers: Mapping[bytes, bytes]) -> str | None:
    """OpenAI's and Ollama's way to send a key, or Anthropic's."""
    sent = headers.get(b"authorization")
    if sent is not None and sent[:7].lower() == b"bearer ":
        return sent[7:].strip().decode("latin-1")
    other = headers.get(b"x-api-key")
    return None if other is None else other.strip().decode("latin-1")


async def _preflight(send: Send) -> None:
    headers = [
        (b"access-control-allow-methods", _CORS_METHODS),
        (b"access-control-allow-headers", b"authorization, content-type, x-api-key, anthropic-version"),
        (b"access-control-max-age", b"600"),
    ]
    await send({"type": "http.response.start", "status": 204, "headers": headers})
    await send({"type": "http.response.body", "body": b""})


def _with_cors(send: Send, origin: bytes) -> Send:
    async def sending(message: Message) -> None:
        if message["type"] == "http.response.start":
            added = [
                (b"access-control-allow-origin", origin),
                (b"access-control-expose-headers", b"x-request-id, x-roundhouse-target, retry-after"),
                (b"vary", b"origin"),
            ]
            message["headers"] = [*message["headers"], *added]
        await send(message)

    return sending
