"""Contents by their sha256: written aside, hashed while written, published by one rename, never changed after."""

from __future__ import annotations

import errno
import hashlib
import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from roundhouse.core.errors import ChecksumMismatch, DiskFull, StoreError
from roundhouse.core.files import sync_folder
from roundhouse.store.layout import Layout

__all__ = ["Blobs", "hash_file", "require_space", "storing"]

_CHUNK_BYTES = 1 << 20
_SPARE_BYTES = 64 << 20  # left on the disk for everybody else


class Blobs:
    def __init__(self, layout: Layout) -> None:
        self._layout = layout

    def has(self, sha256: str, size: int) -> bool:
        """Whether it is here with the right length; its bytes are not read."""
        try:
            return self._layout.blob(sha256).stat().st_size == size
        except FileNotFoundError:
            return False

    def add(self, source: Path) -> tuple[str, int]:
        """Copy a file in: hash and size. Raises `StoreError` if it changes meanwhile, `DiskFull`."""
        before = source.stat()
        require_space(self._layout.root, before.st_size)
        fresh = self._layout.partial / f"import-{secrets.token_hex(8)}"
        digest, size = hashlib.sha256(), 0
        try:
            with storing(fresh), source.open("rb") as read, fresh.open("xb") as write:
                while chunk := read.read(_CHUNK_BYTES):
                    digest.update(chunk)
                    write.write(chunk)
                    size += len(chunk)
                write.flush()
                os.fsync(write.fileno())
            after = source.stat()
            if (size, after.st_mtime_ns) != (before.st_size, before.st_mtime_ns):
                raise StoreError(f"{source} changed while it was read; import it again", path=str(source))
            self.adopt(fresh, digest.hexdigest())
        finally:
            fresh.unlink(missing_ok=True)
        return digest.hexdigest(), size

    def adopt(self, written: Path, sha256: str) -> None:
        """Publish a file that is written, synced and hashed. It is moved."""
        target = self._layout.blob(sha256)
        target.parent.mkdir(parents=True, exist_ok=True)
        written.chmod(0o444)
        written.replace(target)
        sync_folder(target.parent)

    def set_aside(self, sha256: str) -> None:
        """Out of the way, for `Store.collect`: the next pull fetches it again."""
        path = self._layout.blob(sha256)
        if path.exists():
            path.replace(self._layout.partial / f"damaged-{sha256}-{secrets.token_hex(4)}")

    def check(self, sha256: str, size: int) -> None:
        """Read it whole; raises `ChecksumMismatch` if it is absent or not what its name says."""
        path = self._layout.blob(sha256)
        if not path.exists():
            raise ChecksumMismatch(f"{path} is missing", path=str(path), expected=sha256)
        actual = hash_file(path)
        if actual != sha256:
            found = path.stat().st_size
            said = f"{found} of {size} bytes are there" if found != size else "its bytes have changed"
            raise ChecksumMismatch(f"{path} is damaged: {said}", path=str(path), expected=sha256, actual=actual)

    def all(self) -> Iterator[Path]:
        return (path for path in self._layout.blobs.glob("??/*") if path.is_file())


def hash_file(path: Path) -> str:
    """Raises `OSError`."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def require_space(folder: Path, size: int) -> None:
    """Raises `DiskFull` unless `size` bytes can be written there with some to spare."""
    free = shutil.disk_usage(folder).free
    if size + _SPARE_BYTES > free:
        raise DiskFull(
            f"{folder} has {free / 1e9:.2f} GB free and {size / 1e9:.2f} GB are needed (and a little to spare); "
            "make room, or set store.path to another disk",
            path=str(folder),
            needed_bytes=size,
            free_bytes=free,
        )


@contextmanager
def storing(path: Path) -> Iterator[None]:
    """A block that writes to `path`: the system's "no space" becomes `DiskFull`, its other refusals `StoreError`."""
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            said = error.strerror or str(error)
            raise StoreError(
                f"{path} could not be written: {said}; what was there before is untouched", path=str(path)
            ) from error
        raise DiskFull(
            f"the disk or the quota is full: {path} could not be written; what was there before is untouched",
            path=str(path),
        ) from error
