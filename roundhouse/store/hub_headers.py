"""What the safetensors files of a hub repository say, from their first bytes alone: a program of its own.

    python -m roundhouse.store.hub_headers OWNER/REPOSITORY REVISION

prints one line of JSON: `{"facts": ...}`, or `{"error": ..., "kind": "hub" | "header" | "extra"}`. It is a process so
that a limit on its time holds whatever a resolver or a proxy does, and so that `huggingface_hub` (25 MiB once it is
imported) does not stay in a server's memory.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import msgspec

from roundhouse.core.errors import BadHeader, DownloadFailed, MissingExtra, StoreError
from roundhouse.core.model import ModelFacts
from roundhouse.store.download import Pace, Remote
from roundhouse.store.gguf import Tensor
from roundhouse.store.http import Client, Failure
from roundhouse.store.hub import list_repository
from roundhouse.store.manifest import SAFETENSORS, is_safe_path
from roundhouse.store.safetensors import MOST_HEADER_BYTES, describe, parse_config, parse_header, parts_of
from roundhouse.store.selection import select

__all__ = ["main", "read_remote"]

_FIRST_BYTES = 256 << 10
_TEXT_BYTES = 64 << 20
_AT_ONCE = 8
_INDEX = "model.safetensors.index.json"


def read_remote(repository: str, revision: str) -> ModelFacts:
    """Raises `DownloadFailed`, `BadHeader`, `MissingExtra`, and `StoreError` for one without safetensors files."""
    found = list_repository(repository, revision)
    files = {file.path: file for file in found.files if is_safe_path(file.path)}
    chosen = select(list(files), form=SAFETENSORS, what=repository)
    with Client(_AT_ONCE, Pace().stall_s) as client, ThreadPoolExecutor(_AT_ONCE) as threads:
        reader = _Reader(client, found.headers)
        config = parse_config(reader.text(files["config.json"]), f"{repository}/config.json")
        weights = [name for name in chosen.files if name.endswith(".safetensors")]
        if _INDEX in chosen.files:
            weights = parts_of(parse_config(reader.text(files[_INDEX]), f"{repository}/{_INDEX}"), repository)
        if lost := [name for name in weights if name not in files]:
            raise DownloadFailed(f"{repository} lacks {lost[0]}, which its index names", url=repository)
        headers = dict(zip(weights, threads.map(lambda name: reader.header(files[name]), weights), strict=True))
    facts = describe(config, headers, repository)
    file_bytes = sum(files[name].size for name in weights)
    return replace(facts, name=repository, file_bytes=file_bytes, licence=found.licence)


class _Reader:
    """Safe to use from several threads."""

    def __init__(self, client: Client, headers: Mapping[str, str]) -> None:
        self._client = client
        self._headers = headers

    def header(self, file: Remote) -> dict[str, Tensor]:
        """The tensors of one file, in one request if its header is short, else in two."""
        data = self._first(file, _FIRST_BYTES)
        length = 8 + int.from_bytes(data[:8], "little")
        if len(data) < length <= min(MOST_HEADER_BYTES + 8, file.size):
            data = self._first(file, length)
        return parse_header(data, file.size, file.path)

    def text(self, file: Remote) -> bytes:
        if file.size > _TEXT_BYTES:
            raise BadHeader(f"{file.path} is larger than {_TEXT_BYTES >> 20} MiB", path=file.path)
        return self._first(file, _TEXT_BYTES)

    def _first(self, file: Remote, count: int) -> bytes:
        """The first `count` bytes, or all; no more is read from a server that knows no ranges."""
        headers = {**self._headers, "Range": f"bytes=0-{count - 1}", "Accept-Encoding": "identity"}
        try:
            with self._client.get(file.url, headers) as answer:
                return answer.read(count)
        except Failure as failure:
            said = f"{file.url} cannot be read: {failure}"
            raise DownloadFailed(said, url=file.url, status=failure.status) from failure


def main(repository: str, revision: str) -> None:
    told: dict[str, Any]
    try:
        told = {"facts": read_remote(repository, revision)}
    except MissingExtra as error:
        told = {"error": str(error), "kind": "extra"}
    except BadHeader as error:
        told = {"error": str(error), "kind": "header"}
    except StoreError as error:
        told = {"error": str(error), "kind": "hub"}
    sys.stdout.buffer.write(msgspec.json.encode(told) + b"\n")


if __name__ == "__main__":
    main(*sys.argv[1:])
