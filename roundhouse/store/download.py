"""One file over HTTP into the store: in parallel ranged parts that survive a kill, hashed while they are written."""

from __future__ import annotations

import asyncio
import hashlib
import re
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Protocol, TypeVar

import aiohttp

from roundhouse.core.errors import ChecksumMismatch, DownloadFailed, InUse
from roundhouse.store.blobs import require_space
from roundhouse.store.locks import Lease
from roundhouse.store.manifest import File
from roundhouse.store.parts import Parts
from roundhouse.store.repository import Store

__all__ = ["Fetched", "Pace", "Remote", "fetch", "session_for"]

T = TypeVar("T")


class Digest(Protocol):
    def update(self, data: bytes, /) -> None: ...


_RANGE = re.compile(r"bytes (\d+)-(\d+)/(\d+)")
_HASH_BYTES = 1 << 20
_SYNC_BYTES = 512 << 20
_BUFFER_BYTES = 1 << 20
_POLL_S = 0.1
_RETRIED = frozenset({408, 425, 429, 500, 502, 503, 504})


@dataclass(frozen=True, slots=True)
class Remote:
    """A file at a source. `size` -1 and hashes empty = the source does not say. `git_sha1`: of a blob in git."""

    path: str
    url: str
    size: int = -1
    sha256: str = ""
    git_sha1: str = ""


@dataclass(frozen=True, slots=True)
class Fetched:
    """How far a file is. `note` tells what went wrong and is tried again."""

    path: str
    done: int
    size: int
    note: str = ""


@dataclass(frozen=True, slots=True)
class Pace:
    """`stall_s`: silence after which a part is asked for again; `tries`: failures in a row without a new byte."""

    connections: int = 4
    part_bytes: int = 16 << 20
    stall_s: float = 20.0
    tries: int = 6
    backoff_s: float = 0.5
    longest_wait_s: float = 120.0


@dataclass(slots=True)
class _Probe:
    size: int
    etag: str
    ranges: bool


class _Again(Exception):
    """A failure that may pass; `after_s` is how long the source asked to be left alone."""

    def __init__(self, said: str, after_s: float | None = None, status: int = 0) -> None:
        super().__init__(said)
        self.after_s, self.status = after_s, status


def session_for(pace: Pace) -> aiohttp.ClientSession:
    timeout = aiohttp.ClientTimeout(total=None, sock_connect=pace.stall_s, sock_read=pace.stall_s)
    return aiohttp.ClientSession(timeout=timeout, read_bufsize=_BUFFER_BYTES, auto_decompress=False, trust_env=True)


@asynccontextmanager
async def waited(take: Callable[[], Lease], said: Callable[[], None]) -> AsyncIterator[None]:
    """The lock that `take` takes, once no other process holds it; `said` is called if it has to be waited for."""
    lease: Lease | None = None
    while lease is None:
        try:
            lease = take()
        except InUse:
            said()
            await asyncio.sleep(_POLL_S)
    try:
        yield
    finally:
        lease.release()


async def fetch(
    store: Store,
    session: aiohttp.ClientSession,
    remote: Remote,
    pace: Pace,
    listen: Callable[[Fetched], None],
    headers: Mapping[str, str] | None = None,
) -> tuple[File, str]:
    """Bring one file's content into the store and give its ETag too. What is there already is not fetched.

    Raises `DownloadFailed` (what came so far is kept), `ChecksumMismatch` (it is not), `DiskFull`.
    """
    key = remote.sha256 or hashlib.sha256(f"{remote.url}\n{remote.git_sha1}".encode()).hexdigest()
    lock = store.layout.lock(f"fetch-{key}")
    note = Fetched(remote.path, 0, max(0, remote.size), "another process is fetching it; waiting")
    async with waited(lambda: Lease(lock), lambda: listen(note)):
        if remote.sha256 and store.blobs.has(remote.sha256, remote.size):
            listen(Fetched(remote.path, remote.size, remote.size))
            return File(remote.path, remote.size, remote.sha256), ""
        return await _Fetch(store, session, remote, pace, listen, dict(headers or {})).run(key)


@dataclass(slots=True)
class _Fetch:
    store: Store
    session: aiohttp.ClientSession
    remote: Remote
    pace: Pace
    listen: Callable[[Fetched], None]
    headers: dict[str, str]
    etag: str = ""
    grown: asyncio.Event = field(default_factory=asyncio.Event)

    async def run(self, key: str) -> tuple[File, str]:
        found = await self._retried(self._probe, lambda: 0)
        self.etag = found.etag
        part_bytes = self.pace.part_bytes if found.ranges else max(1, found.size)
        validator = self.remote.sha256 or self.remote.git_sha1 or found.etag
        parts = Parts(self.store.layout.partial / key, found.size, part_bytes, validator)
        try:
            if not validator or not found.ranges:  # nothing tells whether the rest would be of the same content
                for part in range(parts.count):
                    parts.forget(part)
            require_space(self.store.layout.root, found.size - parts.total())
            sha256 = await self._all(parts, found)
            await asyncio.to_thread(parts.sync)
            self._verify(parts, sha256)
        except ChecksumMismatch:
            parts.discard()
            raise
        finally:
            parts.close()
        self.store.blobs.adopt(parts.data, sha256)
        parts.discard()
        return File(self.remote.path, found.size, sha256), found.etag

    async def _all(self, parts: Parts, found: _Probe) -> str:
        """Fetch what is missing while hashing what is there."""
        waiting = iter([part for part in range(parts.count) if parts.done(part) < parts.length(part)])

        async def work() -> None:
            for part in waiting:
                await self._retried(partial(self._part, parts, part, found), partial(parts.done, part))

        try:
            async with asyncio.TaskGroup() as group:
                hashing = group.create_task(self._hash(parts))
                for _ in range(self.pace.connections if found.ranges else 1):
                    group.create_task(work())
        except BaseExceptionGroup as several:
            raise _first(several) from several
        return hashing.result()

    async def _hash(self, parts: Parts) -> str:
        digest, hashed, synced = hashlib.sha256(), 0, 0
        while hashed < parts.size:
            self.grown.clear()
            ready = parts.prefix(hashed)
            if ready == hashed:
                await self.grown.wait()
                continue
            length = min(_HASH_BYTES, ready - hashed)
            await asyncio.to_thread(_update, digest, parts, hashed, length)
            hashed += length
            if hashed - synced >= _SYNC_BYTES:
                synced = hashed
                await asyncio.to_thread(parts.sync)
        return digest.hexdigest()

    async def _retried(self, attempt: Callable[[], Awaitable[T]], progress: Callable[[], int]) -> T:
        """`attempt` until it succeeds, or fails too often in a row with no new byte between."""
        failures, reached = 0, progress()
        while True:
            try:
                return await attempt()
            except (_Again, aiohttp.ClientError, TimeoutError, ConnectionError) as error:
                failures = 0 if progress() > reached else failures
                failures, reached = failures + 1, progress()
                said = self._said(error)
                wait = self.pace.backoff_s * 2 ** (failures - 1)
                if isinstance(error, _Again) and error.after_s is not None:
                    wait = error.after_s
                if failures >= self.pace.tries or wait > self.pace.longest_wait_s:
                    status = error.status if isinstance(error, _Again) else 0
                    raise self._failed(f"{said}; what came so far is kept, pull again to go on", status) from error
                self.listen(Fetched(self.remote.path, -1, -1, f"{said}; trying again in {wait:g} s"))
                await asyncio.sleep(wait)

    async def _probe(self) -> _Probe:
        """One byte, which tells size, ETag and whether parts can be asked for."""
        async with self._get({"Range": "bytes=0-0"}) as answer:
            self._refuse_page(answer)
            etag = answer.headers.get("ETag", "").removeprefix("W/").strip('"')
            if answer.status == 416:  # an empty file
                return self._sized(_Probe(0, etag, ranges=True))
            given = _RANGE.fullmatch(answer.headers.get("Content-Range", ""))
            if answer.status == 206 and given:
                return self._sized(_Probe(int(given[3]), etag, ranges=True))
            if answer.content_length is None:
                raise self._failed("it does not say how long the file is", answer.status)
            return self._sized(_Probe(answer.content_length, etag, ranges=False))

    def _sized(self, found: _Probe) -> _Probe:
        if self.remote.size not in (-1, found.size):
            raise self._failed(f"the listing promised {self.remote.size} bytes, and the file has {found.size}")
        return found

    async def _part(self, parts: Parts, part: int, found: _Probe) -> None:
        """The missing end of a part. What comes is written at once, and counts even if the rest fails."""
        if not found.ranges:
            parts.forget(part)
        start, end = part * parts.part_bytes + parts.done(part), part * parts.part_bytes + parts.length(part)
        if start >= end:
            return
        async with self._get({"Range": f"bytes={start}-{end - 1}"} if found.ranges else {}) as answer:
            self._refuse_page(answer)
            self._same_content(answer, start, found)
            while chunk := await answer.content.readany():
                if len(chunk) > end - start:
                    raise self._failed("it sent more than was asked for")
                parts.write(part, chunk)
                start += len(chunk)
                self.grown.set()
                self.listen(Fetched(self.remote.path, parts.total(), parts.size))
        if start < end:
            raise _Again(f"the connection ended {end - start} bytes early")

    def _same_content(self, answer: aiohttp.ClientResponse, start: int, found: _Probe) -> None:
        etag = answer.headers.get("ETag", "").removeprefix("W/").strip('"')
        given = _RANGE.fullmatch(answer.headers.get("Content-Range", ""))
        size = int(given[3]) if given else answer.content_length
        if size != found.size or (not self.remote.sha256 and etag != found.etag):
            raise self._failed("the file changed at its source while it was fetched; pull again for the new one")
        if found.ranges and (answer.status != 206 or not given or int(given[1]) != start):
            raise _Again("it answered another range than was asked for")

    @asynccontextmanager
    async def _get(self, headers: Mapping[str, str]) -> AsyncIterator[aiohttp.ClientResponse]:
        asked = {"Accept-Encoding": "identity", **self.headers, **headers}
        async with self.session.get(self.remote.url, headers=asked) as answer:
            if answer.status in _RETRIED:
                raise _Again(_status(answer), _retry_after(answer), answer.status)
            if answer.status >= 400 and answer.status != 416:
                raise self._failed(_status(answer), answer.status)
            yield answer

    def _refuse_page(self, answer: aiohttp.ClientResponse) -> None:
        if answer.content_type == "text/html" and not self.remote.path.endswith((".html", ".htm")):
            raise self._failed(
                "it answered a web page instead of the file: a login, a proxy or a wrong address", answer.status
            )

    def _verify(self, parts: Parts, sha256: str) -> None:
        expected, actual = self.remote.sha256, sha256
        if not expected and self.remote.git_sha1:
            content = parts.read(0, parts.size)
            expected = self.remote.git_sha1
            actual = hashlib.sha1(b"blob %d\0" % parts.size + content, usedforsecurity=False).hexdigest()
        if expected and actual != expected:
            raise ChecksumMismatch(
                f"{self.remote.path} came damaged from {self.remote.url}: its hash is {actual[:12]}… and "
                f"{expected[:12]}… was promised; it is thrown away, pull again",
                path=self.remote.path,
                expected=expected,
                actual=actual,
            )

    def _said(self, error: BaseException) -> str:
        if isinstance(error, TimeoutError):
            return f"nothing came for {self.pace.stall_s:g} s"
        return str(error) or type(error).__name__

    def _failed(self, said: str, status: int = 0) -> DownloadFailed:
        message = f"{self.remote.path} could not be fetched from {self.remote.url}: {said}"
        return DownloadFailed(message, path=self.remote.path, url=self.remote.url, status=status)


def _first(errors: BaseExceptionGroup[BaseException]) -> BaseException:
    """Of failures in several parts at once, the first; the others follow from it or say the same."""
    found: BaseException = errors
    while isinstance(found, BaseExceptionGroup):
        found = found.exceptions[0]
    return found


def _update(digest: Digest, parts: Parts, offset: int, length: int) -> None:
    digest.update(parts.read(offset, length))


def _status(answer: aiohttp.ClientResponse) -> str:
    if answer.status in (401, 403):
        return f"it answered {answer.status}: it wants a token (HF_TOKEN, for the hub) of an account with access"
    if answer.status == 429:
        return "it answered 429: too many requests"
    return f"it answered {answer.status} {answer.reason or ''}".rstrip()


def _retry_after(answer: aiohttp.ClientResponse) -> float | None:
    try:
        return max(0.0, float(answer.headers["Retry-After"]))
    except (KeyError, ValueError):
        return None
