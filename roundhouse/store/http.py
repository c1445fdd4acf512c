"""GET over HTTP for threads: proxies and `.netrc` of the environment, redirects, and an end whenever it is wanted.

A thread reads from the socket into memory and from there into the file with no event loop between, which is what a
download costs least with; urllib3 keeps the connections, speaks to proxies and checks certificates. It is imported when
something is fetched: a server at rest has no use for it.
"""

from __future__ import annotations

import base64
import contextlib
import http.client
import netrc
import os
import ssl
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Self
from urllib.parse import unquote, urljoin, urlsplit, urlunsplit
from urllib.request import getproxies, proxy_bypass

if TYPE_CHECKING:
    import urllib3
    from urllib3 import BaseHTTPResponse as Answer
    from urllib3.exceptions import HTTPError

__all__ = ["Client", "Failure", "basic_login", "without_secrets"]

_REDIRECTS = frozenset({301, 302, 303, 307, 308})
_HOPS = 10
_DRAINED_BYTES = 64 << 10  # of a redirect's text: reading it keeps the connection; more is cheaper to hang up on
_PASSING = frozenset({408, 425, 429, 500, 502, 503, 504})
_SECRETS = frozenset({"authorization", "cookie", "proxy-authorization"})


class Failure(Exception):
    """No answer, or not the one that was wanted. `passing`: another try may do; `after_s`: when, as the source asks."""

    def __init__(self, said: str, *, passing: bool, after_s: float | None = None, status: int = 0) -> None:
        super().__init__(said)
        self.passing, self.after_s, self.status = passing, after_s, status


class Client:
    """Connections for some threads at once, kept between requests. A context: its end interrupts whoever still reads.

    `stall_s`: the longest silence of a source, and the longest wait for a connection.
    """

    def __init__(self, connections: int, stall_s: float) -> None:
        self._stall_s = stall_s
        self._connections = connections
        self._lock = threading.Lock()
        self._pools: dict[str, urllib3.PoolManager] = {}
        self._open: set[Answer] = set()
        self._closed = False

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        """Nobody reads after this; who waits for a connection is let go of, and gets none."""
        with self._lock:
            self._closed = True
            reading, pools = list(self._open), list(self._pools.values())
        for answer in reading:
            with contextlib.suppress(ValueError, RuntimeError, OSError):  # it has just ended by itself
                answer.shutdown()
        for pool in pools:
            pool.clear()

    @contextmanager
    def get(self, url: str, headers: Mapping[str, str]) -> Iterator[Answer]:
        """The answer, its body unread: below 400, or 416. Raises `Failure`, also for what goes wrong in the block."""
        with self._failing():
            self._require_open()
            answer = self._followed(url, {**_stored_login(url, headers), **headers})
            try:
                self._note(answer)
                if answer.status in _PASSING:
                    raise Failure(_said(answer), passing=True, after_s=_retry_after(answer), status=answer.status)
                if answer.status >= 400 and answer.status != 416:
                    raise Failure(_said(answer), passing=False, status=answer.status)
                yield answer
            finally:
                with self._lock:
                    self._open.discard(answer)
                _leave(answer)

    def _require_open(self) -> None:
        if self._closed:
            raise Failure("the download was ended", passing=False)

    def _note(self, answer: Answer) -> None:
        with self._lock:
            self._require_open()
            self._open.add(answer)

    def _followed(self, url: str, headers: Mapping[str, str]) -> Answer:
        for _ in range(_HOPS):
            answer = self._pool(url).request(
                "GET", url, headers=dict(headers), redirect=False, retries=False, preload_content=False
            )
            place = answer.headers.get("Location")
            if answer.status not in _REDIRECTS or not place:
                return answer
            _leave(answer)
            there = _target(url, place)
            if _origin(url)[0] == "https" != _origin(there)[0]:
                raise Failure(
                    "it sends from https to a place without, which anybody on the way could forge", passing=False
                )
            if _origin(there) != _origin(url):
                headers = {name: value for name, value in headers.items() if name.lower() not in _SECRETS}
            url = there
        raise Failure(f"it redirects more than {_HOPS} times", passing=False)

    def _pool(self, url: str) -> urllib3.PoolManager:
        """By the proxy of the environment that is meant for this address."""
        parts = urlsplit(url)
        proxies = getproxies()
        proxy = proxies.get(parts.scheme) or proxies.get("all") or ""
        if proxy and proxy_bypass(parts.netloc.rpartition("@")[2]):
            proxy = ""
        with self._lock:
            if proxy not in self._pools:
                self._pools[proxy] = self._made(proxy)
            return self._pools[proxy]

    def _made(self, proxy: str) -> urllib3.PoolManager:
        import urllib3

        timeout = urllib3.Timeout(connect=self._stall_s, read=self._stall_s)
        if not proxy:
            return urllib3.PoolManager(maxsize=self._connections, timeout=timeout)
        proxy = proxy if "://" in proxy else f"http://{proxy}"
        login = unquote(urlsplit(proxy).netloc.rpartition("@")[0])
        headers = {"Proxy-Authorization": basic_login(login)} if login else None
        return urllib3.ProxyManager(proxy, proxy_headers=headers, maxsize=self._connections, timeout=timeout)

    @contextmanager
    def _failing(self) -> Iterator[None]:
        """What went wrong below as a `Failure`, in words."""
        from urllib3.exceptions import HTTPError, LocationValueError, ProxySchemeUnknown

        try:
            yield
        except (LocationValueError, ProxySchemeUnknown) as error:
            raise Failure(f"the address, or that of the proxy, cannot be used: {error}", passing=False) from error
        except HTTPError as error:
            reason = _cause(error)
            if isinstance(reason, ssl.SSLCertVerificationError):
                raise Failure(f"its certificate is not trusted: {reason.verify_message}", passing=False) from error
            raise Failure(self._told(error, reason), passing=True) from error

    def _told(self, error: HTTPError, reason: BaseException) -> str:
        from urllib3.exceptions import ConnectTimeoutError, NewConnectionError, ProtocolError, ReadTimeoutError

        if isinstance(error, NewConnectionError):  # also a kind of the next
            return f"it cannot be reached: {reason}"
        if isinstance(error, (ReadTimeoutError, ConnectTimeoutError)):
            return f"nothing came for {self._stall_s:g} s"
        if isinstance(reason, http.client.IncompleteRead) and reason.expected is not None:
            return f"the connection ended {reason.expected} bytes early"
        if isinstance(error, ProtocolError):
            return f"the connection ended early ({reason})"
        return str(reason) or type(reason).__name__


def basic_login(login: str) -> str:
    """The header's value for `user:password`."""
    return f"Basic {base64.b64encode(login.encode()).decode()}"


def without_secrets(url: str) -> str:
    """An address to be shown: login and query are left out, which may hold a password or a signature."""
    parts = urlsplit(url)
    return urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2], query="", fragment=""))


def _leave(answer: Answer) -> None:
    """Keep the connection if nothing of the answer is under way any more; else hang up."""
    left = answer.length_remaining
    if left is not None and left <= _DRAINED_BYTES:
        answer.drain_conn()
    else:
        answer.close()
    answer.release_conn()


def _target(url: str, place: str) -> str:
    """Where a redirect leads."""
    try:
        there = urljoin(url, place)
        _origin(there)
    except ValueError as error:
        raise Failure(f"it redirects to an address that cannot be used: {error}", passing=False) from error
    return there


def _origin(url: str) -> tuple[str, str, int]:
    parts = urlsplit(url)
    return parts.scheme.lower(), parts.hostname or "", parts.port or {"http": 80, "https": 443}.get(parts.scheme, 0)


def _stored_login(url: str, headers: Mapping[str, str]) -> dict[str, str]:
    """Of the user's `.netrc`, unless the caller brings a token; what cannot be read counts as absent."""
    if any(name.lower() == "authorization" for name in headers):
        return {}
    path = Path(os.environ.get("NETRC") or Path.home() / ".netrc")
    try:
        found = netrc.netrc(path).authenticators(urlsplit(url).hostname or "") if path.is_file() else None
    except (OSError, netrc.NetrcParseError):
        return {}
    if not found:
        return {}
    return {"Authorization": basic_login(f"{found[0]}:{found[2] or ''}")}


def _cause(error: BaseException) -> BaseException:
    """The first failure, below what wraps it."""
    while inner := error.__cause__ or next((one for one in error.args if isinstance(one, BaseException)), None):
        error = inner
    return error


def _said(answer: Answer) -> str:
    if answer.status in (401, 403):
        return f"it answered {answer.status}: it wants a token (HF_TOKEN, for the hub) of an account with access"
    if answer.status == 429:
        return "it answered 429: too many requests"
    return f"it answered {answer.status} {answer.reason or ''}".rstrip()


def _retry_after(answer: Answer) -> float | None:
    """Seconds, or a date as HTTP writes it; what is neither counts as absent."""
    from urllib3 import Retry
    from urllib3.exceptions import InvalidHeader

    try:
        return Retry().parse_retry_after(answer.headers["Retry-After"])
    except (KeyError, InvalidHeader):
        return None
