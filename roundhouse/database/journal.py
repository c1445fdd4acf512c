"""What a database could not take, in a file that survives the process, until it can.

One file for each process, a JSON line for each row; the file of a process that has died is found by the next one. A row
may be written twice, if the process dies between the database and the file: writing must not mind.
"""

from __future__ import annotations

import logging
import os
import secrets
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO, TypeAlias

import msgspec

from roundhouse.core.errors import StoreError
from roundhouse.database.seam import Refused

__all__ = ["Journal", "Rows", "Write", "waiting_bytes"]

log = logging.getLogger(__name__)
Rows: TypeAlias = Sequence[Sequence[Any]]
Write: TypeAlias = Callable[[Rows], None]
_AT_ONCE = 1000
_AGAIN_S = 1.0
_LOOK_S = 30.0  # for files of processes that have died meanwhile
_DECODER = msgspec.json.Decoder(list[Any])


class Journal:
    """`name` says whose rows they are, in names of files and in the log. At most `most_bytes` wait on the disk, of this
    process; `lost` counts what found no room, or what the database will never take. For one caller at a time.
    """

    def __init__(self, folder: Path, name: str, most_bytes: int, clock: Callable[[], float] = time.monotonic) -> None:
        self.lost = 0
        self._folder = folder
        self._name = name
        self._most_bytes = most_bytes
        self._clock = clock
        self._file: BinaryIO | None = None
        self._path = folder / f"{name}-{os.getpid()}-{secrets.token_hex(4)}.jsonl"
        self._delivered = 0  # bytes of it that the database has
        self._size = 0
        self._again_at = 0.0
        self._look_at = 0.0
        self._away = False

    @property
    def waiting(self) -> bool:
        """Whether rows of this process wait on the disk."""
        return self._file is not None

    def deliver(self, rows: Rows, write: Write) -> None:
        """Have the database take `rows`; while it is away they wait on the disk. Blocks.

        Raises `StoreError` where neither takes them.
        """
        if not self.waiting and rows and not self._away:
            try:
                self._handed(rows, write)
                rows = ()
            except StoreError as error:
                self._note(error)
        if rows:
            self._append(rows)
        if self._clock() >= self._again_at:
            self._replay(write)

    def close(self) -> None:
        """What waits stays on the disk, for whoever comes next."""
        file, self._file = self._file, None
        if file is not None:
            file.close()

    def _note(self, error: StoreError) -> None:
        self._again_at = self._clock() + _AGAIN_S
        if not self._away:
            log.warning("%s wait on the disk, in %s (%d lost so far): %s", self._name, self._folder, self.lost, error)
        self._away = True

    def _handed(self, rows: Rows, write: Write) -> None:
        """One that is refused for what it is does not keep the others from being written."""
        try:
            write(rows)
        except Refused as error:
            if len(rows) > 1:
                for row in rows:
                    self._handed((row,), write)
                return
            self.lost += 1
            log.error("one of the %s is lost, for the database will not take it: %s", self._name, error)

    def _append(self, rows: Rows) -> None:
        lines = [msgspec.json.encode(row) + b"\n" for row in rows]
        try:
            file = self._file or self._begun()
            room = self._most_bytes - self._size
            fitting = []
            for line in lines:
                room -= len(line)
                if room < 0:
                    break
                fitting.append(line)
            data = b"".join(fitting)
            try:
                file.seek(self._size)
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            except OSError:
                file.truncate(self._size)
                raise
        except OSError as error:
            said = f"{self._path} cannot be written: {error.strerror or error}"
            raise StoreError(said, path=str(self._path)) from error
        self._size += len(data)
        if missing := len(lines) - len(fitting):
            if not self.lost:
                log.error("%s are lost: %d MiB wait on the disk already", self._name, self._most_bytes >> 20)
            self.lost += missing

    def _begun(self) -> BinaryIO:
        self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        handle = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        _hold(handle)
        self._file = os.fdopen(handle, "r+b")
        self._size = self._delivered = 0
        return self._file

    def _replay(self, write: Write) -> None:
        """What waits, of this process and of those that have died, for as long as the database takes it."""
        taken = 0
        try:
            if self._file is not None:
                for rows, end in _chunks(self._file, self._delivered):
                    self._handed(rows, write)
                    self._delivered, taken = end, taken + len(rows)
                self._path.unlink(missing_ok=True)
                self.close()
            if self._away or self._clock() >= self._look_at:
                self._look_at = self._clock() + _LOOK_S
                taken += sum(self._adopted(path, write) for path in self._left_behind())
        except StoreError as error:
            self._note(error)
            return
        except OSError as error:
            self._note(StoreError(f"{self._folder} cannot be read: {error.strerror or error}"))
            return
        if taken:
            log.warning("%d %s that had waited on the disk are in the database now", taken, self._name)
        self._away = False

    def _left_behind(self) -> list[Path]:
        return sorted(path for path in self._folder.glob(f"{self._name}-*.jsonl") if path != self._path)

    def _adopted(self, path: Path, write: Write) -> int:
        """Of a file whose process has died: its rows, which are in the database then."""
        taken = 0
        with _held(path) as file:
            if file is not None:
                for rows, _ in _chunks(file, 0):
                    self._handed(rows, write)
                    taken += len(rows)
                path.unlink(missing_ok=True)
        return taken


def waiting_bytes(folder: Path) -> int:
    """What waits in the journals of a folder, of all processes; some of it may be in the database already."""
    found = 0
    for path in folder.glob("*.jsonl"):
        with suppress(FileNotFoundError):
            found += path.stat().st_size
    return found


def _chunks(file: BinaryIO, start: int) -> Iterator[tuple[list[list[Any]], int]]:
    """Rows and where they end. A line that was cut by a kill, or damaged, is passed over."""
    file.seek(start)
    rows: list[list[Any]] = []
    for line in iter(file.readline, b""):
        if line.endswith(b"\n"):
            try:
                rows.append(_DECODER.decode(line))
            except (msgspec.DecodeError, UnicodeDecodeError) as error:
                log.error("a line of a journal is damaged and left out: %s", error)
        if len(rows) >= _AT_ONCE:
            yield rows, file.tell()
            rows = []
    if rows:
        yield rows, file.tell()


def _hold(handle: int) -> None:
    """For as long as it is open. Raises `BlockingIOError` if another process holds it."""
    with suppress(ImportError):
        import fcntl

        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)


@contextmanager
def _held(path: Path) -> Iterator[BinaryIO | None]:
    """The file, if no process that lives holds it."""
    try:
        file = path.open("r+b")
    except FileNotFoundError:
        yield None
        return
    with file:
        try:
            _hold(file.fileno())
        except BlockingIOError:
            yield None
            return
        # Another may have taken it over between: then it has no name any more.
        yield file if path.exists() else None
