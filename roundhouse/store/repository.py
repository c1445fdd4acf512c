"""The store: models by name, variant and revision over contents by hash. Every change is one rename."""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import msgspec

from roundhouse.core.errors import ChecksumMismatch, InUse, NotInStore, StoreError
from roundhouse.core.files import sync_folder, write_atomically
from roundhouse.store.blobs import Blobs, storing
from roundhouse.store.layout import Layout
from roundhouse.store.locks import Lease, locked
from roundhouse.store.manifest import File, Manifest
from roundhouse.store.references import Reference
from roundhouse.store.revisions import Damaged, Ledger, Revision, entries, read_ledger, read_revision, read_variant

__all__ = ["Store"]

_FORBIDDEN = (errno.EROFS, errno.EACCES, errno.EPERM)


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
        with locked(self._lock(home)), storing(home):
            self._lay_out(home, manifest)
            ledger = self._ledger_or_none(home)
            if ledger is None:
                ledger = Ledger(manifest.id)
                self._switch(home, ledger)
            elif current:
                ledger = ledger.to(manifest.id)
                self._switch(home, ledger)
            return read_revision(home / manifest.id, current=ledger.current == manifest.id)

    def survey(self, name: str = "", variant: str = "") -> list[Revision | Damaged]:
        """All of a store, a model or a variant, the current revision of each variant first; what is damaged too."""
        if not self.layout.check():
            return []
        models = [self.layout.models / name] if name else entries(self.layout.models)
        homes = [home for model in models for home in ([model / variant] if variant else entries(model))]
        return [one for home in homes for one in read_variant(home)]

    def revisions(self, name: str = "", variant: str = "") -> list[Revision]:
        """As `survey`, without what is damaged."""
        return [one for one in self.survey(name, variant) if isinstance(one, Revision)]

    def damaged(self, name: str = "", variant: str = "") -> list[Damaged]:
        return [one for one in self.survey(name, variant) if isinstance(one, Damaged)]

    def find(self, reference: Reference, form: str = "") -> Revision:
        """The revision that is meant, of format `form` if given. Raises `NotInStore`."""
        found = [one for one in self.revisions(reference.name, reference.variant) if form in ("", one.manifest.format)]
        if wanted := reference.revision:
            found = [one for one in found if _is_revision(one, wanted)]
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
        with locked(self._lock(home)), storing(home):
            ledger = read_ledger(home)
            if ledger is None or not ledger.earlier:
                raise NotInStore(
                    f"{reference} has no earlier revision on disk; `roundhouse models update` keeps one",
                    model=reference.name,
                )
            back = read_revision(home / ledger.earlier[-1], current=True)
            self._switch(home, Ledger(back.manifest.id, ledger.earlier[:-1]))
        return replace(now, current=False), back

    def remove(self, reference: Reference) -> list[Revision | Damaged]:
        """Remove a revision, or a variant, or a model with all its revisions; contents stay until `collect`.

        Raises `InUse` if any of them is loaded; then none is removed.
        """
        doomed = self.survey(reference.name, reference.variant)
        if wanted := reference.revision:
            doomed = [one for one in doomed if _is_revision(one, wanted)]
        if not doomed:
            raise self._absent(reference, "")
        leases = [self.writing()]  # nothing is collected meanwhile
        try:
            leases.extend(self._lease(one, shared=False) for one in doomed)
            self._forget_current(doomed)
            for one in doomed:
                self._drop(one)
        finally:
            for lease in leases:
                lease.release()
        return doomed

    def use(self, revision: Revision) -> Lease | None:
        """Held while it is loaded: it is not removed meanwhile. Notes the time. Raises `InUse` during its removal.

        None where nothing can be written: there nobody removes anything.
        """
        lease = self._held(revision)
        revision.note_use()
        return lease

    def verify(self, revision: Revision) -> None:
        """Read every byte; raises `ChecksumMismatch` for the first file that is not what it was.

        It is not removed meanwhile; raises as `use` if it is or was.
        """
        lease = self._held(revision)
        try:
            for file in revision.manifest.files:
                self._verify(revision, file)
        finally:
            if lease is not None:
                lease.release()

    def set_damage_aside(self, revision: Revision) -> list[str]:
        """Take contents that are damaged out of its way, for `collect`: the files that are missing then.

        A pull or an import brings them anew. Who has them open keeps what he has.
        """
        gone = []
        for file in revision.manifest.files:
            try:
                self._verify(revision, file)
            except ChecksumMismatch:
                gone.append(file.path)
                with storing(self.layout.partial):
                    self.blobs.set_aside(file.sha256)
        return gone

    def garbage(self) -> list[tuple[Path, int]]:
        """Contents that no revision names, and what was not finished, each with its bytes.

        Raises `StoreError` while a manifest is damaged, for nobody knows then what it named.
        """
        found = self.survey()
        for one in found:
            if isinstance(one, Damaged) and one.id:
                raise StoreError(
                    f"{one.said}; what it named is not known, so nothing is collected: "
                    f"`roundhouse models rm {one.reference}` first",
                    path=str(one.folder),
                )
        named = {file.sha256 for one in found if isinstance(one, Revision) for file in one.manifest.files}
        unnamed = [path for path in self.blobs.all() if path.name not in named]
        begun = [*sorted(self.layout.partial.glob("*")), *self._half_made()]
        return [(path, _size_of(path)) for path in (*unnamed, *begun)]

    def collect(self) -> list[tuple[Path, int]]:
        """Remove the garbage: what, and its bytes. Raises `InUse` while something is being brought in."""
        with locked(self.layout.lock("writers"), wait=False, what="the store (a pull or an import is under way)"):
            taken = self.garbage()
            for path, _ in taken:
                with storing(path):
                    shutil.rmtree(path) if path.is_dir() else path.unlink()
        return taken

    def _lay_out(self, home: Path, manifest: Manifest) -> None:
        """The revision's folder, made aside and renamed, unless it is there and whole."""
        final = home / manifest.id
        with contextlib.suppress(StoreError):
            read_revision(final, current=False)
            if all(_leads_to(final / "files" / file.path, self.layout.blob(file.sha256)) for file in manifest.files):
                return
        home.mkdir(parents=True, exist_ok=True)
        fresh = home / f".{secrets.token_hex(8)}"
        try:
            for file in manifest.files:
                link = fresh / "files" / file.path
                link.parent.mkdir(parents=True, exist_ok=True)
                link.symlink_to(os.path.relpath(self.layout.blob(file.sha256), link.parent))
            write_atomically(fresh / "manifest.json", manifest.encoded())
            if final.exists():  # half removed, or damaged
                shutil.rmtree(final)
            fresh.rename(final)
            sync_folder(home)
        finally:
            shutil.rmtree(fresh, ignore_errors=True)

    def _ledger_or_none(self, home: Path) -> Ledger | None:
        """A damaged one counts as none: what is published becomes the current revision."""
        try:
            return read_ledger(home)
        except StoreError:
            return None

    def _half_made(self) -> Iterator[Path]:
        """Folders of revisions whose making or removal was killed: they have no manifest in their place."""
        homes = (home for model in entries(self.layout.models) for home in entries(model))
        for path in (path for home in homes for path in entries(home)):
            if path.is_dir() and (path.name.startswith(".") or not (path / "manifest.json").exists()):
                yield path

    def _verify(self, revision: Revision, file: File) -> None:
        link, blob = revision.folder / "files" / file.path, self.layout.blob(file.sha256)
        self.blobs.check(file.sha256, file.size)
        if not _leads_to(link, blob):
            raise ChecksumMismatch(f"{link} does not lead to its content {blob}", path=str(link), expected=file.sha256)

    def _switch(self, home: Path, ledger: Ledger) -> None:
        write_atomically(home / "current.json", msgspec.json.encode(ledger))

    def _forget_current(self, doomed: Sequence[Revision | Damaged]) -> None:
        """Of variants that go as a whole. For them nothing has to be written then: a full disk can be cleared."""
        gone = {one.folder for one in doomed}
        for home in {one.folder.parent for one in doomed if isinstance(one, Revision)}:
            with locked(self._lock(home)), storing(home):
                if gone >= {one.folder for one in read_variant(home)}:
                    (home / "current.json").unlink(missing_ok=True)

    def _drop(self, one: Revision | Damaged) -> None:
        identity = one.manifest.id if isinstance(one, Revision) else one.id
        home = one.folder.parent if identity else one.folder
        with locked(self._lock(home)), storing(home):
            ledger = self._ledger_or_none(home)
            left = ledger.without(identity) if ledger else None
            if left:
                self._switch(home, left)
            else:
                (home / "current.json").unlink(missing_ok=True)
            if identity:
                (one.folder / "manifest.json").unlink(missing_ok=True)
                if one.folder.exists():  # nobody else has removed it
                    shutil.rmtree(one.folder)
            with contextlib.suppress(OSError):  # another revision is there, or another variant
                home.rmdir()
                home.parent.rmdir()

    def _lock(self, home: Path) -> Path:
        return self.layout.lock(f"model-{home.parent.name}:{home.name}")

    def _held(self, revision: Revision) -> Lease | None:
        """It is there, and stays; None = where nothing can be written."""
        try:
            lease = self._lease(revision, shared=True)
        except StoreError as error:
            if isinstance(error.__cause__, OSError) and error.__cause__.errno in _FORBIDDEN:
                return None
            raise
        if not (revision.folder / "manifest.json").exists():
            lease.release()
            raise NotInStore(f"{revision.reference} has just been removed", model=revision.manifest.name)
        return lease

    def _lease(self, one: Revision | Damaged, *, shared: bool) -> Lease:
        lock = self.layout.lock(f"use-{one.reference}")
        try:
            return Lease(lock, shared=shared)
        except InUse:
            doing = "being removed" if shared else "loaded by a running process; unload it or stop that process first"
            raise InUse(f"{one.reference} is {doing}", path=str(one.folder)) from None

    def _absent(self, reference: Reference, form: str) -> StoreError:
        for one in self.damaged(reference.name, reference.variant):
            return StoreError(
                f"{one.said}; `roundhouse models pull {reference.name}` brings it anew, "
                f"`roundhouse models rm {one.reference}` removes it",
                path=str(one.folder),
            )
        there = sorted({f"{one.manifest.name}:{one.manifest.variant}" for one in self.revisions(reference.name)})
        known = f"; of it there are {', '.join(there)}" if there else "; `roundhouse models list` shows what is"
        kind = f" as {form}" if form else ""
        return NotInStore(f"{reference} is not in the store{kind}{known}", model=reference.name)


def _is_revision(one: Revision | Damaged, wanted: str) -> bool:
    """Whether `wanted` is the beginning of the revision's id, or of the source's name for it."""
    if isinstance(one, Damaged):
        return bool(one.id) and one.id.startswith(wanted)
    manifest = one.manifest
    return manifest.id.startswith(wanted) or (bool(manifest.revision) and manifest.revision.startswith(wanted))


def _leads_to(link: Path, blob: Path) -> bool:
    return link.is_symlink() and link.resolve() == blob.resolve()


def _size_of(path: Path) -> int:
    """Bytes of a file or of a folder's files, which themselves lie here; links weigh nothing."""
    files = [path] if path.is_file() else list(path.rglob("*"))
    return sum(file.lstat().st_size for file in files if file.is_file() and not file.is_symlink())
