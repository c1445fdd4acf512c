"""The first thing a request meets: is it for us, from a page of ours, with a key, and within what that key may.

Then the table of paths. Raw ASGI, since every request passes here.
"""

from __future__ import annotations

import logging
import re
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from roundhouse.access.caller import ANYONE, Caller
from roundhouse.access.keys import Role
from roundhouse.access.ring import KeyRing
from roundhouse.core.errors import Error, InvalidRequest, NotAllowed
from roundhouse.server.context import CALLER
from roundhouse.server.errors import Encoded, TooLarge, Unasked, form_of
from roundhouse.server.exchange import send_error, too_large

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
_LARGE_DIGITS = len(str(1 << 20))  # no limit is below 1 MiB, so that a shorter number need not be read
# A name, or an address of version 6 in brackets, and a port.
_HOST = re.compile(rb"(\[[0-9a-f:.]+\]|[a-z0-9._-]+)(:\d{0,5})?", re.IGNORECASE)
# Of which a request has one: of two, a proxy might have read the other.
_SINGLE = (b"host", b"authorization", b"x-api-key", b"origin")
_CORS_METHODS = b"GET, HEAD, POST, DELETE"
_CORS_EXPOSED = b"x-request-id, request-id, x-roundhouse-target, retry-after"


@dataclass(frozen=True, slots=True)
class Entrance:
    """`role` None: open to whoever may reach the server. `metered`: it counts against a key's rates."""

    app: ASGIApp
    role: Role | None = Role.CLIENT
    metered: bool = False


class Guard:
    """`entrances` by method and path. What is not among them goes to `otherwise`, with the role that `prefixes` give
    its path: a path that nobody knows is told to be unknown to clients too. A body that is announced as larger than
    `body_limit_bytes()` is refused before any of it has come.
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
        body_limit_bytes: Callable[[], int],
    ) -> None:
        self._body_limit_bytes = body_limit_bytes
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
            headers = self.checked_head(scope)
            foreign = False
            if b"origin" in headers or b"sec-fetch-site" in headers:
                foreign = self._is_foreign(scope, headers)
                if foreign:
                    send = _with_cors(send, headers[b"origin"])
                if scope["method"] == "OPTIONS":
                    await _preflight(headers, send)
                    return
            if headers.get(b"content-encoding", b"identity") != b"identity":
                raise Encoded("the body must be sent as it is, not compressed")
            await self._enter(scope, headers, receive, send, foreign=foreign)
        except Error as error:
            await send_error(send, error, form_of(scope["path"]))
        except Exception as error:
            log.exception("%s %r failed", scope["method"], scope["path"])  # a path may hold line breaks
            if isinstance(error, RuntimeError) and "response" in str(error):
                raise  # it was being answered already; the connection is closed by the server
            said = Error("Roundhouse made a mistake of its own; its log has the details")
            await send_error(send, said, form_of(scope["path"]))

    def checked_head(self, scope: Scope) -> Mapping[bytes, bytes]:
        """The headers. Raises `InvalidRequest` for what two readers could understand differently, is not for us, or
        announces too large a body.
        """
        headers = dict(scope["headers"])
        if len(headers) != len(scope["headers"]):
            _check_single(scope["headers"])
        self._check_host(headers.get(b"host", b""))
        length = headers.get(b"content-length")
        if length is not None and len(length) >= _LARGE_DIGITS and int(length) > self._body_limit_bytes():
            kind = Unasked if b"expect" in headers else TooLarge
            raise kind(too_large(self._body_limit_bytes()))
        return headers

    async def _enter(
        self, scope: Scope, headers: Mapping[bytes, bytes], receive: Receive, send: Send, *, foreign: bool
    ) -> None:
        entrance = self._entrances.get((scope["method"], scope["path"])) or self._other(scope)
        if entrance.role is None:
            await entrance.app(scope, receive, send)
            return
        caller = self._ring.caller(_secret(headers)) if self._ring.asks() else ANYONE
        if caller is ANYONE:
            if foreign and entrance.role is Role.ADMIN:
                raise NotAllowed("a page of another origin may order nothing here without a key of the role admin")
            await entrance.app(scope, receive, send)
            return
        if entrance.role is Role.ADMIN and caller.role is not Role.ADMIN:
            raise NotAllowed(f'the key "{caller.name}" has the role client; this wants the role admin')
        scope[CALLER] = caller
        if not entrance.metered:
            await entrance.app(scope, receive, send)
            return
        await self._metered(caller, entrance.app, scope, receive, send)

    async def _metered(self, caller: Caller, app: ASGIApp, scope: Scope, receive: Receive, send: Send) -> None:
        """One request of a key, counted against its limits."""
        caller.enter(time.monotonic())
        try:
            await app(scope, receive, send)
        finally:
            caller.leave()

    def _other(self, scope: Scope) -> Entrance:
        path = scope["path"]
        if scope["method"] == "HEAD" and (found := self._entrances.get(("GET", path))) is not None:
            return found
        role = next((role for prefix, role in self._prefixes.items() if path.startswith(prefix)), Role.CLIENT)
        return Entrance(self._otherwise, role)

    def _check_host(self, host: bytes) -> None:
        if host in self._good_hosts:
            return
        found = _HOST.fullmatch(host)
        bare = found[1].decode().lower() if found else ""
        if not any(bare == one or one == "*" or (one[:2] == "*." and bare.endswith(one[1:])) for one in self._hosts):
            raise _WrongHost("this server does not answer to that Host; add it to server.hosts if it should")
        if len(self._good_hosts) < _REMEMBERED_HOSTS:
            self._good_hosts.add(host)

    def _is_foreign(self, scope: Scope, headers: Mapping[bytes, bytes]) -> bool:
        """Whether a page of another site sends it, one that may; raises `NotAllowed` for one that may not."""
        origin = headers.get(b"origin")
        if origin is None:
            navigates = headers.get(b"sec-fetch-mode") == b"navigate" and scope["method"] == "GET"
            if headers.get(b"sec-fetch-site") in (b"cross-site", b"same-site") and not navigates:
                raise NotAllowed("pages of other sites may not ask this server")
            return False
        said = origin.decode("latin-1").lower()
        if said.partition("://")[2].encode("latin-1") == headers[b"host"].lower():
            return False
        if said not in self._origins:
            raise NotAllowed("pages of this origin may not ask this server; add it to server.origins if they should")
        return True


class _WrongHost(InvalidRequest):
    pass


def _check_single(headers: Iterable[tuple[bytes, bytes]]) -> None:
    names = [name for name, _ in headers]
    for name in _SINGLE:
        if names.count(name) > 1:
            raise InvalidRequest(f"the header {name.decode()} was sent more than once")


def _secret(headers: Mapping[bytes, bytes]) -> str | None:
    """OpenAI's and Ollama's way to send a key, or Anthropic's."""
    sent = headers.get(b"authorization")
    if sent is not None and sent[:7].lower() == b"bearer ":
        return sent[7:].strip().decode("latin-1")
    other = headers.get(b"x-api-key")
    return None if other is None else other.strip().decode("latin-1")


async def _preflight(asked: Mapping[bytes, bytes], send: Send) -> None:
    """What an allowed page may send: the headers it asks for, since clients have many of their own."""
    wanted = asked.get(b"access-control-request-headers", b"authorization, content-type, x-api-key")
    headers = [
        (b"access-control-allow-methods", _CORS_METHODS),
        (b"access-control-allow-headers", wanted),
        (b"access-control-max-age", b"600"),
    ]
    if asked.get(b"access-control-request-private-network") == b"true":
        headers.append((b"access-control-allow-private-network", b"true"))
    await send({"type": "http.response.start", "status": 204, "headers": headers})
    await send({"type": "http.response.body", "body": b""})


def _with_cors(send: Send, origin: bytes) -> Send:
    async def sending(message: Message) -> None:
        if message["type"] == "http.response.start":
            added = [
                (b"access-control-allow-origin", origin),
                (b"access-control-expose-headers", _CORS_EXPOSED),
                (b"vary", b"origin"),
            ]
            message["headers"] = [*message["headers"], *added]
        await send(message)

    return sending
