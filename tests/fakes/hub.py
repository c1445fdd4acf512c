"""A model hub on loopback that speaks to the real `huggingface_hub`, and does wrong on order.

    GET  /api/models/OWNER/REPO/revision/REV?blobs=true    listing, with commit, sizes and hashes
    HEAD /OWNER/REPO/resolve/REV/PATH                      ETag, X-Repo-Commit, X-Linked-Etag, X-Linked-Size
    GET  the same                                          302 to /cdn/SHA256 for large files, which answers ranges

It runs in a thread of its own, so that blocking clients of the same process can talk to it.
"""

from __future__ import annotations

import asyncio
import hashlib
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

from aiohttp import web

__all__ = ["Faults", "Hub", "running_hub"]

_CHUNK_BYTES = 64 << 10
_LARGE_BYTES = 1 << 16  # from here on a file is in LFS


@dataclass
class Faults:
    """What is done wrong. `cut` / `stall` / `wait_429`: how many answers; `flip`: bytes at which a bit is turned.

    `slow_s`: a pause after each 64 KiB, so that a kill comes in the middle.
    """

    cut: int = 0
    stall: int = 0
    html: bool = False
    size_lie: int = 0
    flip: set[int] = field(default_factory=set)
    wait_429: int = 0
    no_ranges: bool = False
    slow_s: float = 0.0


@dataclass
class Hub:
    """`repositories`: name -> branch or commit -> files. `served` counts the bytes of each offset sent, per file."""

    url: str = ""
    repositories: dict[str, dict[str, dict[str, bytes]]] = field(default_factory=dict)
    heads: dict[str, str] = field(default_factory=dict)
    cards: dict[str, dict[str, Any]] = field(default_factory=dict)
    gated: set[str] = field(default_factory=set)
    faults: Faults = field(default_factory=Faults)
    served: Counter[str] = field(default_factory=Counter)
    requests: list[str] = field(default_factory=list)

    def push(self, repository: str, files: dict[str, bytes], licence: str = "apache-2.0") -> str:
        """A commit on `main`."""
        text = "".join(f"{name}{_sha256(content)}" for name, content in sorted(files.items()))
        commit = hashlib.sha1(text.encode()).hexdigest()
        self.repositories.setdefault(repository, {})[commit] = files
        self.heads[repository] = commit
        self.cards[repository] = {"license": licence}
        return commit

    def _files(self, repository: str, revision: str) -> tuple[str, dict[str, bytes]]:
        commit = self.heads.get(repository, "") if revision == "main" else revision
        files = self.repositories.get(repository, {}).get(commit)
        if repository not in self.repositories or files is None:
            what = "RepoNotFound" if repository not in self.repositories else "RevisionNotFound"
            raise web.HTTPNotFound(headers={"X-Error-Code": what})
        return commit, files

    def _check_gate(self, request: web.Request, repository: str) -> None:
        if repository in self.gated and request.headers.get("authorization") != "Bearer hf_good":
            kind = web.HTTPForbidden if "authorization" in request.headers else web.HTTPUnauthorized
            raise kind(headers={"X-Error-Code": "GatedRepo", "X-Error-Message": "Access to this model is restricted."})

    def _limit_rate(self) -> None:
        if self.faults.wait_429 > 0:
            self.faults.wait_429 -= 1
            raise web.HTTPTooManyRequests(headers={"Retry-After": "0"})

    async def listing(self, request: web.Request) -> web.Response:
        repository = f"{request.match_info['owner']}/{request.match_info['repo']}"
        self.requests.append(f"list {repository}")
        commit, files = self._files(repository, request.match_info.get("rev", "main"))
        self._check_gate(request, repository)
        rows = [self._row(name, content) for name, content in files.items()]
        card = self.cards[repository]
        return web.json_response({"id": repository, "sha": commit, "siblings": rows, "cardData": card, "tags": []})

    def _row(self, name: str, content: bytes) -> dict[str, Any]:
        size = len(content) + self.faults.size_lie
        row: dict[str, Any] = {"rfilename": name, "size": size, "blobId": _git_sha1(content)}
        if len(content) >= _LARGE_BYTES:
            digest = _sha256(content)
            row["lfs"] = {"sha256": digest, "size": size, "pointerSize": 134}
        return row

    async def resolve(self, request: web.Request) -> web.StreamResponse:
        repository = f"{request.match_info['owner']}/{request.match_info['repo']}"
        commit, files = self._files(repository, request.match_info["rev"])
        self._check_gate(request, repository)
        name = request.match_info["path"]
        if name not in files:
            raise web.HTTPNotFound(headers={"X-Error-Code": "EntryNotFound"})
        content = files[name]
        large = len(content) >= _LARGE_BYTES
        etag = _sha256(content) if large else _git_sha1(content)
        headers = {"X-Repo-Commit": commit, "ETag": f'"{etag}"', "Accept-Ranges": "bytes"}
        if large:
            place = f"{self.url}/cdn/{repository}/{commit}/{name}"
            linked = {"X-Linked-Etag": f'"{etag}"', "X-Linked-Size": str(len(content)), "Location": place}
            return web.Response(status=302, headers={**headers, **linked})
        return await self._send(request, name, content, headers)

    async def cdn(self, request: web.Request) -> web.StreamResponse:
        repository = f"{request.match_info['owner']}/{request.match_info['repo']}"
        name = request.match_info["path"]
        content = self.repositories[repository][request.match_info["rev"]][name]
        digest = _sha256(content)
        return await self._send(request, name, content, {"ETag": f'"{digest}"', "Accept-Ranges": "bytes"})

    async def plain(self, request: web.Request) -> web.StreamResponse:
        """`/files/NAME`: a file of the repository `files` as any web server gives it."""
        name = request.match_info["path"]
        content = self._files("plain/files", "main")[1][name]
        return await self._send(request, name, content, {"ETag": f'"{_md5(content)}"'})

    async def _send(
        self, request: web.Request, name: str, content: bytes, headers: dict[str, str]
    ) -> web.StreamResponse:
        faults = self.faults
        if faults.html:
            return web.Response(text="<!doctype html><p>Please sign in", content_type="text/html")
        self._limit_rate()
        start, end, status = 0, len(content), 200
        if "Range" in request.headers and not faults.no_ranges:
            first, _, last = request.headers["Range"].removeprefix("bytes=").partition("-")
            start, end, status = int(first), min(end, int(last) + 1) if last else end, 206
            headers = {**headers, "Content-Range": f"bytes {start}-{end - 1}/{len(content)}"}
        answer = web.StreamResponse(status=status, headers={**headers, "Content-Length": str(end - start)})
        await answer.prepare(request)
        if request.method != "HEAD":
            await self._stream(request, answer, name, content, start, end)
        return answer

    async def _stream(
        self, request: web.Request, answer: web.StreamResponse, name: str, content: bytes, start: int, end: int
    ) -> None:
        faults, probe = self.faults, end - start == 1
        cut = not probe and faults.cut > 0
        stall = not probe and not cut and faults.stall > 0
        faults.cut, faults.stall = faults.cut - cut, faults.stall - stall
        middle = (start + end) // 2
        while start < end:
            chunk = bytearray(content[start : min(end, start + _CHUNK_BYTES)])
            for place in faults.flip:
                if start <= place < start + len(chunk) and not probe:
                    chunk[place - start] ^= 1
            await answer.write(bytes(chunk))
            self.served[name] += len(chunk)
            start += len(chunk)
            if cut and start >= middle:
                assert request.transport is not None
                request.transport.close()
                return
            if stall and start >= middle:
                await asyncio.sleep(3600)
            if faults.slow_s:
                await asyncio.sleep(faults.slow_s)


# A file is asked for in many parts; hashed at each, a large one would make the hub slower than what is tested.
@lru_cache(maxsize=8)
def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


@lru_cache(maxsize=8)
def _md5(content: bytes) -> str:
    return hashlib.md5(content).hexdigest()


@lru_cache(maxsize=8)
def _git_sha1(content: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


@contextmanager
def running_hub() -> Iterator[Hub]:
    """A hub on a port of its own. It ends with the block, whoever is still connected."""
    hub, ready, loop = Hub(), threading.Event(), asyncio.new_event_loop()
    stop = asyncio.Event()

    async def serve() -> None:
        app = web.Application()
        app.router.add_get("/api/models/{owner}/{repo}/revision/{rev}", hub.listing)
        app.router.add_get("/api/models/{owner}/{repo}", hub.listing)
        app.router.add_get("/{owner}/{repo}/resolve/{rev}/{path:.+}", hub.resolve)
        app.router.add_get("/cdn/{owner}/{repo}/{rev}/{path:.+}", hub.cdn)
        app.router.add_get("/files/{path:.+}", hub.plain)
        runner = web.AppRunner(app, handler_cancellation=True, shutdown_timeout=0.1)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        hub.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
        ready.set()
        await stop.wait()
        await runner.cleanup()

    thread = threading.Thread(target=loop.run_until_complete, args=(serve(),), daemon=True)
    thread.start()
    ready.wait(10)
    try:
        yield hub
    finally:
        loop.call_soon_threadsafe(stop.set)
        thread.join(10)
        loop.close()
