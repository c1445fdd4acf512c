"""What the safetensors files of a hub repository say, from their first bytes alone: a program of its own.

    python -m roundhouse.store.hub_headers OWNER/REPOSITORY REVISION

prints one line of JSON: `{"facts": ...}`, or `{"error": ..., "kind": "hub" | "header" | "extra"}`. It is a process so
that a limit on its time holds whatever a resolver or a proxy does, and so that `huggingface_hub` (25 MiB once it is
imported) does not stay in a server's memory.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import aiohttp
import msgspec

from roundhouse.core.errors import BadHeader, DownloadFailed, MissingExtra, StoreError
from roundhouse.core.model import ModelFacts
from roundhouse.store.download import Pace, Remote, session_for
from roundhouse.store.gguf import Tensor
from roundhouse.store.hub import list_repository
from roundhouse.store.manifest import SAFETENSORS, is_safe_path
from roundhouse.store.safetensors import MOST_HEADER_BYTES, describe, parse_config, parse_header, parts_of
from roundhouse.store.selection import select

__all__ = ["main", "read_remote"]

_FIRST_BYTES = 256 << 10
_TEXT_BYTES = 64 << 20
_AT_ONCE = 8
_INDEX = "model.safetensors.index.json"


async def read_remote(repository: str, revision: str) -> ModelFacts:
    """Raises `DownloadFailed`, `BadHeader`, `MissingExtra`, and `StoreError` for one without safetensors files."""
    found = await asyncio.to_thread(list_repository, repository, revision)
    files = {file.path: file for file in found.files if is_safe_path(file.path)}
    chosen = select(list(files), form=SAFETENSORS, what=repository)
    async with session_for(Pace()) as session:
        reader = _Reader(session, found.headers)
        config = parse_config(await reader.text(files["config.json"]), f"{repository}/config.json")
        weights = [name for name in chosen.files if name.endswith(".safetensors")]
        if _INDEX in chosen.files:
            weights = parts_of(parse_config(await reader.text(files[_INDEX]), f"{repository}/{_INDEX}"), repository)
        if lost := [name for name in weights if name not in files]:
            raise DownloadFailed(f"{repository} lacks {lost[0]}, which its index names", url=repository)
        headers = await asyncio.gather(*(reader.header(files[name]) for name in weights))
    facts = describe(config, dict(zip(weights, headers, strict=True)), repository)
    file_bytes = sum(files[name].size for name in weights)
    return replace(facts, name=repository, file_bytes=file_bytes, licence=found.licence)


class _Reader:
    def __init__(self, session: aiohttp.ClientSession, headers: Mapping[str, str]) -> None:
        self._session = session
        self._headers = headers
        self._places = asyncio.Semaphore(_AT_ONCE)

    async def header(self, file: Remote) -> dict[str, Tensor]:
        """The tensors of one file, in one request if its header is short, else in two."""
        data = await self._first(file, _FIRST_BYTES)
        length = 8 + int.from_bytes(data[:8], "little")
        if len(data) < length <= min(MOST_HEADER_BYTES + 8, file.size):
            data = await self._first(file, length)
        return parse_header(data, file.size, file.path)

    async def text(self, file: Remote) -> bytes:
        if file.size > _TEXT_BYTES:
            raise BadHeader(f"{file.path} is larger than {_TEXT_BYTES >> 20} MiB", path=file.path)
        return await self._first(file, _TEXT_BYTES)

    async def _first(self, file: Remote, count: int) -> bytes:
        """The first `count` bytes, or all; no more is read from a server that knows no ranges."""
        headers = {**self._headers, "Range": f"bytes=0-{count - 1}", "Accept-Encoding": "identity"}
        try:
            async with self._places, self._session.get(file.url, headers=headers) as answer:
                if answer.status not in (200, 206):
                    raise DownloadFailed(f"{file.url} answered {answer.status}", url=file.url, status=answer.status)
                return await _at_most(answer.content, count)
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            said = str(error) or type(error).__name__
            raise DownloadFailed(f"{file.url} cannot be read: {said}", url=file.url) from error


async def _at_most(content: aiohttp.StreamReader, count: int) -> bytes:
    pieces, size = [], 0
    while size < count and (piece := await content.read(min(1 << 16, count - size))):
        pieces.append(piece)
        size += len(piece)
    return b"".join(pieces)


def main(repository: str, revision: str) -> None:
    told: dict[str, Any]
    try:
        told = {"facts": asyncio.run(read_remote(repository, revision))}
    except MissingExtra as error:
        told = {"error": str(error), "kind": "extra"}
    except BadHeader as error:
        told = {"error": str(error), "kind": "header"}
    except StoreError as error:
        told = {"error": str(error), "kind": "hub"}
    sys.stdout.buffer.write(msgspec.json.encode(told) + b"\n")


if __name__ == "__main__":
    main(*sys.argv[1:])
