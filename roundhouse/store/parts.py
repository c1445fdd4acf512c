"""The state of one file's download on disk: its data, and how far each part is. Another process can go on from it.

The counts lie in a mapped file and are raised after the bytes are written, so what a killed process leaves is true. A
machine that lost power may have kept the counts and lost the data: then only what was synced before counts.
"""

from __future__ import annotations

import mmap
import os
import shutil
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec

from roundhouse.core.files import write_atomically
from roundhouse.store.blobs import storing

__all__ = ["Parts"]

_COUNT = struct.Struct("<Q")
_BOOT = Path("/proc/sys/kernel/random/boot_id")


@dataclass(frozen=True, slots=True)
class _State:
    """`validator`: what tells this content from another (a hash, an ETag). `durable`: synced bytes of each part."""

    size: int
    part_bytes: int
    validator: str
    boot: str
    durable: tuple[int, ...]


class Parts:
    """Open until `close`; owned by who holds the file's lock. `folder` is made, or taken over if it fits."""

    def __init__(self, folder: Path, size: int, part_bytes: int, validator: str) -> None:
        self.folder, self.size, self.part_bytes, self._validator = folder, size, part_bytes, validator
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
        """Append to a part. Raises `DiskFull`."""
        done = self.done(part)
        with storing(self.data):
            view = memoryview(chunk)
            while view:
                written = os.pwrite(self._data, view, part * self.part_bytes + done)
                view, done = view[written:], done + written
                self._total += written
                _COUNT.pack_into(self._counts, part * _COUNT.size, done)

    def forget(self, part: int) -> None:
        """Begin a part anew."""
        self._total -= self.done(part)
        _COUNT.pack_into(self._counts, part * _COUNT.size, 0)

    def read(self, offset: int, length: int) -> bytes:
        return os.pread(self._data, length, offset)

    def sync(self) -> None:
        """Make what is written now last over a loss of power. Blocks."""
        counts = [self.done(part) for part in range(self.count)]
        with storing(self.data):
            os.fdatasync(self._data)
        self._save(counts)

    def close(self) -> None:
        self._counts.close()
        os.close(self._data)

    def discard(self) -> None:
        shutil.rmtree(self.folder, ignore_errors=True)

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
