"""The store: models by name, variant and revision over contents by hash. Every change is one rename."""

from __future__ import annotations

import os
import secrets
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

import msgspec

from roundhouse.core.errors import BadHeader, InUse, NotInStore, StoreError
from roundhouse.core.files import sync_folder, write_atomically
from roundhouse.core.model import ModelFacts
from roundhouse.store.blobs import Blobs
from roundhouse.store.headers import read_model
from roundhouse.store.layout import Layout
from roundhouse.store.locks import Lease, locked
from roundhouse.store.manifest import Manifest, read_manifest
from roundhouse.store.references import Reference

__all__ = ["Ledger", "Revision", "Store"]


@dataclass(frozen=True, slots=True)
class Ledger:
    """Which revision of a variant is in use, and those that were before it, the latest last."""

    current: str
    earlier: tuple[str, ...] = ()

    def to(self, revision: str) -> Ledger:
        if revision == self.current:
            return self
        return Ledger(revision, (*(one for one in self.earlier if one != revision), self.current))

    def without(self, gone: str) -> Ledger | None:
        """None = nothing is left."""
        earlier = tuple(one for one in self.earlier if one != gone)
        if self.current != gone:
            return Ledger(self.current, earlier)
        return Ledger(earlier[-1], earlier[:-1]) if earlier else None


@dataclass(frozen=True, slots=True)
class Revision:
    """One revision on disk. `used`: when it was last loaded, seconds since 1970, 0 = never."""

    manifest: Manifest
    folder: Path
    current: bool
    used: float = 0.0

    @property
    def path(self) -> Path:
        """What a backend is given."""
        return self.folder / "files" / self.manifest.entry

    def facts(self) -> ModelFacts | None:
        """What its files say of it; None = they cannot be read."""
        try:
            return read_model(self.path)
        except BadHeader:
            return None

    @property
    def reference(self) -> str:
        return f"{self.manifest.name}:{self.manifest.variant}@{self.manifest.id}"


class Store:
    """Several processes may work on one store. Nothing is written before the first `publish` or `prepare`."""

    def __init__(self, root: Path) -> None:
        self.layout = Layout(root)
        self.blobs = Blobs(self.layout)

    def prepare(self) -> None:
        self.layout.prepare()

    def writing(self) -> Lease:
        """Held while contents are brought in that no manifest names yet, so that none is collected."""
        return Lease(self.layout.lock("writers"), shared=True, wait=True)

    def publish(self, manifest: Manifest, *, current: bool = True) -> Revision:
        """Make it the current revision; its blobs must be there. The one before it is kept.

        `current` False: it lies beside the one that is current, if there is one.
        """
        home = self.layout.variant(manifest.name, manifest.variant)
        manifest = replace(manifest, created=manifest.created or datetime.now(UTC).isoformat(timespec="seconds"))
        for file in manifest.files:
            if not self.blobs.has(file.sha256, file.size):
                raise StoreError(f"the content of {file.path} is not in the store", path=str(home))
        with locked(self._lock(home)):
            if not (home / manifest.id / "manifest.json").exists():
                self._lay_out(home, manifest)
            ledger = self._ledger(home)
            if ledger is None:
                ledger = Ledger(manifest.id)
                self._switch(home, ledger)
            elif current:
                ledger = ledger.to(manifest.id)
                self._switch(home, ledger)
        return self._revision(home / manifest.id, current=ledger.current == manifest.id)

    def revisions(self, name: str = "", variant: str = "") -> list[Revision]:
        """All of a store, a model or a variant; the current one of each variant first."""
        if not self.layout.check():
            return []
        homes = sorted(path for path in self.layout.models.glob(f"{name or '*'}/{variant or '*'}") if path.is_dir())
        return [revision for home in homes for revision in self._of(home)]

    def find(self, reference: Reference, form: str = "") -> Revision:
        """The revision that is meant, of format `form` if given. Raises `NotInStore`."""
        found = [one for one in self.revisions(reference.name, reference.variant) if form in ("", one.manifest.format)]
        if wanted := reference.revision:
            found = [one for one in found if _is_revision(one.manifest, wanted)]
        else:
            found = [one for one in found if one.current]
        if not found:
            raise self._absent(reference, form)
        if len({one.manifest.id for one in found}) > 1 and wanted:
            raise NotInStore(
                f"{reference} is the beginning of several revisions; write more of it", model=reference.name
            )
        return max(found, key=lambda one: one.used)

    def rollback(self, reference: Reference) -> tuple[Revision, Revision]:
        """Go back to the revision before: that which was current, and that which is now."""
        now = self.find(reference)
        home = now.folder.parent
        with locked(self._lock(home)):
            ledger = self._ledger(home)
            if ledger is None or not ledger.earlier:
                raise NotInStore(
                    f"{reference} has no earlier revision on disk; `roundhouse models update` keeps one",
                    model=reference.name,
                )
            back = ledger.earlier[-1]
            self._switch(home, Ledger(back, ledger.earlier[:-1]))
        return replace(now, current=False), self._revision(home / back, current=True)

    def remove(self, reference: Reference) -> list[Revision]:
        """Remove a revision, or a variant, or a model with all its revisions; contents stay until `collect`.

        Raises `InUse` if any of them is loaded; then none is removed.
        """
        doomed = self.revisions(reference.name, reference.variant)
        if reference.revision:
            doomed = [one for one in doomed if _is_revision(one.manifest, reference.revision)]
        if not doomed:
            raise self._absent(reference, "")
        leases: list[Lease] = []
        try:
            for one in doomed:
                leases.append(self._lease(one, shared=False))
            for one in doomed:
                self._drop(one)
        finally:
            for lease in leases:
                lease.release()
        return doomed

    def use(self, revision: Revision) -> Lease:
        """Held while it is loaded: it is not removed meanwhile. Notes the time. Raises `InUse` during its removal."""
        lease = self._lease(revision, shared=True)
        if not revision.folder.exists():
            lease.release()
            raise NotInStore(f"{revision.reference} has just been removed", model=revision.manifest.name)
        (revision.folder / "used").touch()
        return lease

    def verify(self, revision: Revision) -> None:
        """Read every byte; raises `ChecksumMismatch` for the first file that is not what it was."""
        for file in revision.manifest.files:
            self.blobs.check(file.sha256, file.size)

    def garbage(self) -> list[tuple[Path, int]]:
        """Contents that no revision names, and downloads that are not finished, each with its bytes."""
        named = {file.sha256 for one in self.revisions() for file in one.manifest.files}
        unnamed = [path for path in self.blobs.all() if path.name not in named]
        return [(path, _size_of(path)) for path in (*unnamed, *sorted(self.layout.partial.glob("*")))]

    def collect(self) -> list[tuple[Path, int]]:
        """Remove the garbage: what, and its bytes. Raises `InUse` while something is being brought in."""
        with locked(self.layout.lock("writers"), wait=False, what="the store (a pull or an import is under way)"):
            taken = self.garbage()
            for path, _ in taken:
                shutil.rmtree(path) if path.is_dir() else path.unlink()
        return taken

    def _lay_out(self, home: Path, manifest: Manifest) -> None:
        """The revision's folder, made aside and renamed."""
        home.mkdir(parents=True, exist_ok=True)
        fresh = home / f".{secrets.token_hex(8)}"
        try:
            for file in manifest.files:
                link = fresh / "files" / file.path
                link.parent.mkdir(parents=True, exist_ok=True)
                link.symlink_to(os.path.relpath(self.layout.blob(file.sha256), link.parent))
            write_atomically(fresh / "manifest.json", manifest.encoded())
            final = home / manifest.id
            if final.exists():  # without a manifest: half removed
                shutil.rmtree(final)
            fresh.rename(final)
            sync_folder(home)
        finally:
            shutil.rmtree(fresh, ignore_errors=True)

    def _of(self, home: Path) -> Iterator[Revision]:
        ledger = self._ledger(home)
        if ledger is None:
            return
        there = sorted(path.parent.name for path in home.glob("[0-9a-f]*/manifest.json"))  # also what was rolled back
        for revision in dict.fromkeys((ledger.current, *reversed(ledger.earlier), *there)):
            yield self._revision(home / revision, current=revision == ledger.current)

    def _revision(self, folder: Path, *, current: bool) -> Revision:
        used = folder / "used"
        when = used.stat().st_mtime if used.exists() else 0.0
        return Revision(read_manifest(folder / "manifest.json"), folder, current, when)

    def _ledger(self, home: Path) -> Ledger | None:
        try:
            return msgspec.json.decode((home / "current.json").read_bytes(), type=Ledger)
        except FileNotFoundError:
            return None
        except (OSError, msgspec.MsgspecError) as error:
            raise StoreError(f"{home / 'current.json'} cannot be read: {error}", path=str(home)) from error

    def _switch(self, home: Path, ledger: Ledger) -> None:
        write_atomically(home / "current.json", msgspec.json.encode(ledger))

    def _drop(self, revision: Revision) -> None:
        home = revision.folder.parent
        with locked(self._lock(home)):
            ledger = self._ledger(home)
            left = ledger.without(revision.manifest.id) if ledger else None
            if left:
                self._switch(home, left)
            else:
                (home / "current.json").unlink(missing_ok=True)
            (revision.folder / "manifest.json").unlink(missing_ok=True)
            shutil.rmtree(revision.folder)
        for folder in (home, home.parent):
            if not any(folder.iterdir()):
                folder.rmdir()

    def _lock(self, home: Path) -> Path:
        return self.layout.lock(f"model-{home.parent.name}:{home.name}")

    def _lease(self, revision: Revision, *, shared: bool) -> Lease:
        manifest = revision.manifest
        lock = self.layout.lock(f"use-{manifest.name}:{manifest.variant}@{manifest.id}")
        try:
            return Lease(lock, shared=shared)
        except InUse:
            doing = "being removed" if shared else "loaded by a running process; unload it or stop that process first"
            raise InUse(f"{revision.reference} is {doing}", path=str(revision.folder)) from None

    def _absent(self, reference: Reference, form: str) -> NotInStore:
        there = sorted({f"{one.manifest.name}:{one.manifest.variant}" for one in self.revisions(reference.name)})
        known = f"; of it there are {', '.join(there)}" if there else "; `roundhouse models list` shows what is"
        kind = f" as {form}" if form else ""
        return NotInStore(f"{reference} is not in the store{kind}{known}", model=reference.name)


def _is_revision(manifest: Manifest, wanted: str) -> bool:
    """Whether `wanted` is the beginning of the revision's id, or of the source's name for it."""
    return manifest.id.startswith(wanted) or (bool(manifest.revision) and manifest.revision.startswith(wanted))


def _size_of(path: Path) -> int:
    """Bytes of a file or of a folder's files."""
    if path.is_file():
        return path.stat().st_size
    return sum(file.stat().st_size for file in path.rglob("*") if file.is_file())
