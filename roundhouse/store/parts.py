"""The state of one file's download on disk: its data, and how far each part is. Another process can go on from it.

The counts lie in a mapped file and are raised after the bytes are written, so what a killed process leaves is true. A
machine that lost power may have kept the counts and lost the data: then only what was synced before counts.

Threads may work on it at once, each on parts of its own.
"""

from __future__ import annotations

import mmap
import os
import shutil
import struct
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import msgspec

from roundhouse.core.errors import StoreError
from roundhouse.core.files import write_atomically
from roundhouse.store.blobs import storing

__all__ = ["Closed", "Digest", "Parts"]

_COUNT = struct.Struct("<Q")
_BLOCK_BYTES = 1 << 20
_BOOT = Path("/proc/sys/kernel/random/boot_id")


class Digest(Protocol):
    def update(self, data: memoryview, /) -> None: ...


@dataclass(frozen=True, slots=True)
class _State:
    """`validator`: what tells this content from another (a hash, an ETag). `durable`: synced bytes of each part."""

    size: int
    part_bytes: int
    validator: str
    boot: str
    durable: tuple[int, ...]


class Closed(Exception):
    """The file was closed before a thread came to write to it."""


class Parts:
    """Open until `close`; owned by who holds the file's lock. `folder` is made, or taken over if it fits."""

    def __init__(self, folder: Path, size: int, part_bytes: int, validator: str) -> None:
        self.folder, self.size, self.part_bytes, self._validator = folder, size, part_bytes, validator
        self._changed = threading.Condition()
        self._users, self._closed = 0, False
        self.count = max(1, -(-size // part_bytes))
        before = self._before()
        if before is None:
            shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True, exist_ok=True)
        with storing(folder):
            self._data = os.open(self.data, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
            os.ftruncate(self._data, size)
            counts = os.open(folder / "progress", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
            if before is None:  # written, for a hole that is filled through the map of a full disk kills the process
                os.pwrite(counts, bytes(self.count * _COUNT.size), 0)
        self._counts = mmap.mmap(counts, self.count * _COUNT.size)
        os.close(counts)
        if before is None or before.boot != _boot():
            self._restore(before.durable if before else (0,) * self.count)
            self._save([self.done(part) for part in range(self.count)])
        self._total = sum(self.done(part) for part in range(self.count))

    @property
    def data(self) -> Path:
        return self.folder / "data"

    def length(self, part: int) -> int:
        return min(self.part_bytes, self.size - part * self.part_bytes)

    def done(self, part: int) -> int:
        """Bytes of a part that are written, from its beginning on."""
        return min(int(_COUNT.unpack_from(self._counts, part * _COUNT.size)[0]), self.length(part))

    def total(self) -> int:
        return self._total

    def prefix(self, known: int = 0) -> int:
        """Bytes from the file's beginning that are written without a gap, which were `known` before at least."""
        part = known // self.part_bytes
        while part < self.count and self.done(part) == self.length(part):
            part += 1
        return self.size if part == self.count else part * self.part_bytes + self.done(part)

    def write(self, part: int, chunk: bytes) -> None:
        """Append to a part. Raises `DiskFull`, `Closed`."""
        done = self.done(part)
        with self._using(), storing(self.data):
            view = memoryview(chunk)
            while view:
                written = os.pwrite(self._data, view, part * self.part_bytes + done)
                view, done = view[written:], done + written
                self._count(part, done)

    def forget(self, part: int) -> None:
        """Begin a part anew. Raises `Closed`."""
        with self._using():
            self._count(part, 0)

    def hash(self, digest: Digest, start: int, end: int) -> None:
        """Feed what is written between two offsets to `digest`. Raises `Closed`."""
        block = memoryview(bytearray(min(_BLOCK_BYTES, end - start)))
        while start < end:
            with self._using():
                read = os.preadv(self._data, [block[: end - start]], start)
            if not read:
                raise StoreError(f"{self.data} has been cut short by somebody else; pull again", path=str(self.data))
            digest.update(block[:read])
            start += read

    def sync(self) -> None:
        """Make what is written now last over a loss of power. Blocks. Raises `DiskFull`, `Closed`."""
        with self._using(), storing(self.data):
            counts = [self.done(part) for part in range(self.count)]
            os.fdatasync(self._data)
            self._save(counts)

    def close(self) -> None:
        """Nothing is written after this, for it waits for who is at it: a write is short. Idempotent."""
        with self._changed:
            if self._closed:
                return
            self._closed = True
            self._changed.wait_for(lambda: not self._users)
        self._counts.close()
        os.close(self._data)

    def discard(self) -> None:
        shutil.rmtree(self.folder, ignore_errors=True)

    @contextmanager
    def _using(self) -> Iterator[None]:
        """A block in which the file stays open."""
        with self._changed:
            if self._closed:
                raise Closed
            self._users += 1
        try:
            yield
        finally:
            with self._changed:
                self._users -= 1
                self._changed.notify_all()

    def _count(self, part: int, done: int) -> None:
        with self._changed:
            self._total += done - self.done(part)
            _COUNT.pack_into(self._counts, part * _COUNT.size, done)

    def _before(self) -> _State | None:
        """What an earlier process left, if it is of the same content."""
        try:
            state = msgspec.json.decode((self.folder / "state.json").read_bytes(), type=_State)
            marks = (self.folder / "progress").stat().st_size == self.count * _COUNT.size
            whole = self.data.stat().st_size == self.size and marks
        except (OSError, msgspec.MsgspecError):
            return None
        same = (state.size, state.part_bytes, state.validator) == (self.size, self.part_bytes, self._validator)
        return state if same and whole and len(state.durable) == self.count else None

    def _restore(self, counts: Sequence[int]) -> None:
        for part, count in enumerate(counts):
            _COUNT.pack_into(self._counts, part * _COUNT.size, count)

    def _save(self, counts: Sequence[int]) -> None:
        state = _State(self.size, self.part_bytes, self._validator, _boot(), tuple(counts))
        with storing(self.folder):
            write_atomically(self.folder / "state.json", msgspec.json.encode(state))


def _boot() -> str:
    """Of this run of the machine; where the system does not say, each process is one of its own."""
    try:
        return _BOOT.read_text().strip()
    except OSError:
        return f"process-{os.getpid()}"
