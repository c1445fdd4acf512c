"""Locks between processes: `flock` on files that are never removed, which the system releases when a process dies."""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from roundhouse.core.errors import InUse, StoreError

__all__ = ["Lease", "locked"]


class Lease:
    """A lock that is held until `release`, or until this process ends.

    `shared`: others may share it. Raises `InUse` at once if it cannot be had, unless `wait`; `StoreError` where no lock
    can be made.
    """

    def __init__(self, path: Path, *, shared: bool = False, wait: bool = False, what: str = "") -> None:
        self._file = _opened(path, shared=shared)
        try:
            fcntl.flock(self._file, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError:
            os.close(self._file)
            raise InUse(f"{what or path.stem} is in use by another process; try again later", path=str(path)) from None
        except BaseException:
            os.close(self._file)
            raise

    def release(self) -> None:
        """Idempotent."""
        if self._file >= 0:
            os.close(self._file)
            self._file = -1


def _opened(path: Path, *, shared: bool) -> int:
    """To share a lock that is there it is enough to be allowed to read it."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        return os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
    except OSError as error:
        if shared:
            with contextlib.suppress(OSError):
                return os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        said = error.strerror or str(error)
        raise StoreError(f"the store cannot be written: {said} ({path})", path=str(path)) from error


@contextmanager
def locked(path: Path, *, shared: bool = False, wait: bool = True, what: str = "") -> Iterator[None]:
    """The lock at `path`, for a block."""
    lease = Lease(path, shared=shared, wait=wait, what=what)
    try:
        yield
    finally:
        lease.release()
