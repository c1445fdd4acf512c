"""Files and folders that are whole at every moment, whoever is killed while they are written.

What is made lies beside its place first, under a name of its own that its writer holds (flock) until it is renamed.
What a killed process left there is nobody's: who writes next in that folder removes it.
"""

from __future__ import annotations

import contextlib
import os
import re
import secrets
import shutil
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

__all__ = ["locked", "making_folder", "replacing", "sync_folder", "write_atomically"]

# Its writer has its lock by then, and one of another machine is done, where locks do not reach that far.
_YOUNG_S = 60.0
# Where a file system knows no locks: nobody is taken to write for so long without a byte.
_OLD_S = 3600.0
_FOLDERS = re.compile(r"\.new-\w{8}")


def write_atomically(path: Path, data: bytes, mode: int = 0o666) -> None:
    """`path` has its old content or `data`, whenever the process or the machine stops. Raises `OSError`.

    `mode`: its rights, less the process's umask.
    """
    with replacing(path, mode) as file:
        file.write(data)


@contextlib.contextmanager
def replacing(path: Path, mode: int = 0o666) -> Iterator[BinaryIO]:
    """A file that takes the place of `path` at the end of the block, and is gone if that raises.

    Raises `OSError`. `mode` as for `write_atomically`.
    """
    fresh = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    others = re.compile(re.escape(f".{path.name}.") + "[0-9a-f]{8}")
    opened = os.open(fresh, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)
    try:
        _hold(opened)
        _clear(path.parent, others, os.fstat(opened))
        with open(fresh, "wb", opener=lambda name, flags: os.dup(opened)) as file:
            yield file
            file.flush()
            os.fsync(opened)
        fresh.replace(path)
    except BaseException:
        fresh.unlink(missing_ok=True)
        raise
    finally:
        os.close(opened)
    sync_folder(path.parent)


@contextlib.contextmanager
def making_folder(place: Path, mode: int = 0o777) -> Iterator[Path]:
    """A folder that is renamed to `place` at the end of the block, and is gone if that raises.

    `place` is in a folder that is there and ours alone. Raises `OSError`, also if `place` is there and not empty.
    """
    fresh = place.with_name(f".new-{secrets.token_hex(4)}")
    fresh.mkdir(mode)
    opened = os.open(fresh, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        _hold(opened)
        _clear(place.parent, _FOLDERS, os.fstat(opened))
        yield fresh
        fresh.rename(place)
    except BaseException:
        shutil.rmtree(fresh, ignore_errors=True)
        raise
    finally:
        os.close(opened)
    sync_folder(place.parent)


@contextlib.contextmanager
def locked(path: Path) -> Iterator[None]:
    """For one process at a time; another waits. `path`: a file that is made for it, and stays. Raises `OSError`."""
    lock = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        with contextlib.suppress(ImportError):  # where there is none, two commands at once are on their own
            import fcntl

            fcntl.flock(lock, fcntl.LOCK_EX)
        yield
    finally:
        os.close(lock)


def sync_folder(folder: Path) -> None:
    """Make names in `folder` last over a loss of power."""
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _clear(folder: Path, names: re.Pattern[str], ours: os.stat_result) -> None:
    """Remove what is left in `folder` under such names, and is of the kind of `ours`, which was made just now."""
    with contextlib.suppress(OSError), os.scandir(folder) as found:
        for entry in found:
            if names.fullmatch(entry.name):
                with contextlib.suppress(OSError):
                    _remove_dead(Path(entry.path), ours)


def _remove_dead(path: Path, ours: os.stat_result) -> None:
    """Unless somebody may still be at it. Raises `OSError`."""
    opened = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        it = os.fstat(opened)
        age_s = ours.st_mtime - it.st_mtime  # by one clock, that of their file system
        alike = stat.S_IFMT(it.st_mode) == stat.S_IFMT(ours.st_mode)
        if alike and age_s >= _YOUNG_S and (_hold(opened) or age_s >= _OLD_S):
            shutil.rmtree(path) if stat.S_ISDIR(it.st_mode) else path.unlink()
    finally:
        os.close(opened)


def _hold(handle: int) -> bool:
    """Until it is closed, as a killed process closes it too; False = there are no locks here.

    Raises `BlockingIOError` if somebody else holds it.
    """
    try:
        import fcntl

        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise
    except (ImportError, OSError):
        return False
    return True
