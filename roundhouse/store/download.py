"""One file over HTTP into the store: in parallel ranged parts that survive a kill, hashed while they are written."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import re
import threading
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import AbstractContextManager, asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, TypeVar

from roundhouse.core.errors import ChecksumMismatch, DownloadFailed, InUse
from roundhouse.store.blobs import require_space
from roundhouse.store.http import Client, Failure, without_secrets
from roundhouse.store.locks import Lease
from roundhouse.store.manifest import File
from roundhouse.store.parts import Parts
from roundhouse.store.repository import Store
from roundhouse.store.threads import in_thread

if TYPE_CHECKING:
    from urllib3 import BaseHTTPResponse as Answer

__all__ = ["Fetched", "Pace", "Remote", "client_for", "fetch"]

T = TypeVar("T")

_RANGE = re.compile(r"bytes (\d+)-(\d+)/(\d+)")
_READ_BYTES = 512 << 10  # smaller ones cost more turns of the interpreter, larger ones more memory
_HASH_BYTES = 64 << 20  # at one go: what is ready, but not so much that a cancel waits for it
_SYNC_BYTES = 128 << 20  # written back while more comes: the last of it is short then
_POLL_S = 0.1


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


def client_for(pace: Pace) -> Client:
    return Client(pace.connections, pace.stall_s)


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
    client: Client,
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
        return await _Fetch(store, client, remote, pace, listen, dict(headers or {})).run(key)


class _Bell:
    """Rung by threads, awaited in the loop; what rings before the loop has turned is heard as once."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._event = asyncio.Event()
        self._lock = threading.Lock()
        self._pending = False

    def ring(self) -> None:
        with self._lock:
            if self._pending:
                return
            self._pending = True
        with contextlib.suppress(RuntimeError):  # the loop has ended: nobody listens
            self._loop.call_soon_threadsafe(self._heard)

    async def rung(self) -> None:
        """The next time. What came before the call, and was rung for, is to be looked at before."""
        await self._event.wait()

    def _heard(self) -> None:
        with self._lock:
            self._pending = False
        self._event.set()
        self._event = asyncio.Event()


@dataclass(slots=True)
class _Fetch:
    """The loop decides; a thread for each part reads, writes and counts, and rings when something has come."""

    store: Store
    client: Client
    remote: Remote
    pace: Pace
    listen: Callable[[Fetched], None]
    headers: dict[str, str]
    bell: _Bell = field(default_factory=_Bell)

    async def run(self, key: str) -> tuple[File, str]:
        found = await self._retried(self._probe, lambda: 0)
        part_bytes = self.pace.part_bytes if found.ranges else max(1, found.size)
        validator = self.remote.sha256 or self.remote.git_sha1 or found.etag
        parts = Parts(self.store.layout.partial / key, found.size, part_bytes, validator)
        try:
            if not validator or not found.ranges:  # nothing tells whether the rest would be of the same content
                for part in range(parts.count):
                    parts.forget(part)
            require_space(self.store.layout.root, found.size - parts.total())
            sha256 = await self._all(parts, found)
            self._verify(parts, sha256)
        except ChecksumMismatch:
            parts.close()
            parts.discard()
            raise
        finally:
            parts.close()
        self.store.blobs.adopt(parts.data, sha256)
        parts.discard()
        return File(self.remote.path, found.size, sha256), found.etag

    async def _all(self, parts: Parts, found: _Probe) -> str:
        """Fetch what is missing while hashing, syncing and telling what is there."""
        waiting = iter([part for part in range(parts.count) if parts.done(part) < parts.length(part)])
        try:
            async with asyncio.TaskGroup() as group:
                hashing = group.create_task(self._hash(parts))
                group.create_task(self._sync(parts))
                group.create_task(self._tell(parts))
                for _ in range(self.pace.connections if found.ranges else 1):
                    group.create_task(self._work(parts, waiting, found))
        except BaseExceptionGroup as several:
            raise _first(several) from several
        return hashing.result()

    async def _work(self, parts: Parts, waiting: Iterator[int], found: _Probe) -> None:
        for part in waiting:
            await self._retried(partial(self._part, parts, part, found), partial(parts.done, part))

    async def _hash(self, parts: Parts) -> str:
        """Of the file from its beginning, as far as it has no gap."""
        digest, hashed = hashlib.sha256(), 0
        while hashed < parts.size:
            ready = min(parts.prefix(hashed), hashed + _HASH_BYTES)
            if ready == hashed:
                await self.bell.rung()
            else:
                await in_thread(partial(parts.hash, digest, hashed, ready))
                hashed = ready
        return digest.hexdigest()

    async def _sync(self, parts: Parts) -> None:
        """To the disk what has come, again and again, and at last all of it."""
        synced = -1
        while synced < parts.size:
            total = parts.total()
            if total == parts.size or total - max(0, synced) >= _SYNC_BYTES:
                await in_thread(parts.sync)
                synced = total
            else:
                await self.bell.rung()

    async def _tell(self, parts: Parts) -> None:
        while (total := parts.total()) < parts.size:
            self.listen(Fetched(self.remote.path, total, parts.size))
            await self.bell.rung()
        self.listen(Fetched(self.remote.path, total, parts.size))

    async def _retried(self, attempt: Callable[[], T], progress: Callable[[], int]) -> T:
        """`attempt`, in a thread, until it succeeds, or fails too often in a row with no new byte between."""
        failures, reached = 0, progress()
        while True:
            try:
                return await in_thread(attempt)
            except Failure as error:
                if not error.passing:
                    raise self._failed(str(error), error.status) from error
                failures = 0 if progress() > reached else failures
                failures, reached = failures + 1, progress()
                wait = self.pace.backoff_s * 2 ** (failures - 1) if error.after_s is None else error.after_s
                if failures >= self.pace.tries or wait > self.pace.longest_wait_s:
                    raise self._failed(
                        f"{error}; what came so far is kept, pull again to go on", error.status
                    ) from error
                self.listen(Fetched(self.remote.path, -1, -1, f"{error}; trying again in {wait:g} s"))
                await asyncio.sleep(wait)

    def _probe(self) -> _Probe:
        """One byte, which tells size, ETag and whether parts can be asked for."""
        with self._get({"Range": "bytes=0-0"}) as answer:
            if answer.status == 416:  # an empty file
                return self._sized(_Probe(0, _etag(answer), ranges=True))
            self._refuse_page(answer)
            given = _RANGE.fullmatch(answer.headers.get("Content-Range", ""))
            if answer.status == 206 and given:
                return self._sized(_Probe(int(given[3]), _etag(answer), ranges=True))
            if answer.length_remaining is None:
                raise self._failed("it does not say how long the file is", answer.status)
            return self._sized(_Probe(answer.length_remaining, _etag(answer), ranges=False))

    def _sized(self, found: _Probe) -> _Probe:
        if self.remote.size not in (-1, found.size):
            raise self._failed(f"the listing promised {self.remote.size} bytes, and the file has {found.size}")
        return found

    def _part(self, parts: Parts, part: int, found: _Probe) -> None:
        """The missing end of a part. What comes is written at once, and counts even if the rest fails."""
        if not found.ranges:
            parts.forget(part)
        start, end = part * parts.part_bytes + parts.done(part), part * parts.part_bytes + parts.length(part)
        if start >= end:
            return
        with self._get({"Range": f"bytes={start}-{end - 1}"} if found.ranges else {}) as answer:
            self._refuse_page(answer)
            self._same_content(answer, start, found)
            while chunk := answer.read1(_READ_BYTES, decode_content=False):
                if len(chunk) > end - start:
                    raise self._failed("it sent more than was asked for")
                parts.write(part, chunk)
                start += len(chunk)
                self.bell.ring()
        if start < end:
            raise Failure(f"the connection ended {end - start} bytes early", passing=True)

    def _same_content(self, answer: Answer, start: int, found: _Probe) -> None:
        given = _RANGE.fullmatch(answer.headers.get("Content-Range", ""))
        size = int(given[3]) if given else answer.length_remaining
        if size != found.size or (not self.remote.sha256 and _etag(answer) != found.etag):
            raise self._failed("the file changed at its source while it was fetched; pull again for the new one")
        if found.ranges and (answer.status != 206 or not given or int(given[1]) != start):
            raise Failure("it answered another range than was asked for", passing=True)

    def _get(self, headers: Mapping[str, str]) -> AbstractContextManager[Answer]:
        return self.client.get(self.remote.url, {"Accept-Encoding": "identity", **self.headers, **headers})

    def _refuse_page(self, answer: Answer) -> None:
        kind = answer.headers.get("Content-Type", "").partition(";")[0].strip().lower()
        if kind == "text/html" and not self.remote.path.endswith((".html", ".htm")):
            raise self._failed(
                "it answered a web page instead of the file: a login, a proxy or a wrong address", answer.status
            )

    def _verify(self, parts: Parts, sha256: str) -> None:
        expected, actual = self.remote.sha256, sha256
        if not expected and self.remote.git_sha1:
            expected = self.remote.git_sha1
            digest = hashlib.sha1(b"blob %d\0" % parts.size, usedforsecurity=False)
            parts.hash(digest, 0, parts.size)
            actual = digest.hexdigest()
        if expected and actual != expected:
            raise ChecksumMismatch(
                f"{self.remote.path} came damaged from {without_secrets(self.remote.url)}: its hash is {actual[:12]}… "
                f"and {expected[:12]}… was promised; it is thrown away, pull again",
                path=self.remote.path,
                expected=expected,
                actual=actual,
            )

    def _failed(self, said: str, status: int = 0) -> DownloadFailed:
        message = f"{self.remote.path} could not be fetched from {without_secrets(self.remote.url)}: {said}"
        return DownloadFailed(message, path=self.remote.path, url=self.remote.url, status=status)


def _first(errors: BaseExceptionGroup[BaseException]) -> BaseException:
    """Of failures in several parts at once, the first; the others follow from it or say the same."""
    found: BaseException = errors
    while isinstance(found, BaseExceptionGroup):
        found = found.exceptions[0]
    return found


def _etag(answer: Answer) -> str:
    return answer.headers.get("ETag", "").removeprefix("W/").strip('"')
