"""What is on disk of a model, as it is read: revisions, which of them is current, and what is too damaged to tell."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import msgspec

from roundhouse.core.errors import BadHeader, StoreError
from roundhouse.core.model import ModelFacts
from roundhouse.store.headers import read_model
from roundhouse.store.manifest import Manifest, read_manifest

__all__ = ["Damaged", "Ledger", "Revision", "entries", "read_ledger", "read_revision", "read_variant"]

_ID = re.compile(r"[0-9a-f]{16}")


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

    def note_use(self) -> None:
        """Now it is loaded; not noted where nothing can be written."""
        with contextlib.suppress(OSError):
            (self.folder / "used").touch()

    @property
    def reference(self) -> str:
        return f"{self.manifest.name}:{self.manifest.variant}@{self.manifest.id}"


@dataclass(frozen=True, slots=True)
class Damaged:
    """A revision whose manifest cannot be trusted; or, without an `id`, a variant that cannot tell its current one."""

    name: str
    variant: str
    id: str
    folder: Path
    said: str

    @property
    def reference(self) -> str:
        return f"{self.name}:{self.variant}" + (f"@{self.id}" if self.id else "")


def entries(folder: Path) -> list[Path]:
    """What is in a folder, by name; nothing where it is gone, as a model is that another process removes."""
    try:
        return sorted(folder.iterdir())
    except (FileNotFoundError, NotADirectoryError):
        return []


def read_variant(home: Path) -> Iterator[Revision | Damaged]:
    """Of the folder of a variant: the current revision first, then those before it, then those rolled back from."""
    folders = (path for path in entries(home) if not path.name.startswith("."))
    there = [path.name for path in folders if (path / "manifest.json").exists()]
    try:
        ledger = read_ledger(home)
    except StoreError as error:
        ledger = None
        yield Damaged(home.parent.name, home.name, "", home, str(error))
    order = (ledger.current, *reversed(ledger.earlier)) if ledger else ()
    for one in dict.fromkeys((*order, *there)):
        if one not in there:
            continue  # taken away in between
        try:
            yield read_revision(home / one, current=ledger is not None and one == ledger.current)
        except StoreError as error:
            if (home / one / "manifest.json").exists():  # else it was removed between the two looks
                yield Damaged(home.parent.name, home.name, one, home / one, str(error))


def read_revision(folder: Path, *, current: bool) -> Revision:
    """Raises `StoreError` for a manifest that is damaged, or of another revision than its folder."""
    manifest = read_manifest(folder / "manifest.json")
    named = (folder.parent.parent.name, folder.parent.name, folder.name)
    if (manifest.name, manifest.variant, manifest.id) != named:
        raise StoreError(f"the manifest in {folder} is of another revision", path=str(folder))
    try:
        used = (folder / "used").stat().st_mtime
    except OSError:
        used = 0.0
    return Revision(manifest, folder, current, used)


def read_ledger(home: Path) -> Ledger | None:
    """None = there is none. Raises `StoreError` for one that cannot be read."""
    path = home / "current.json"
    try:
        ledger = msgspec.json.decode(path.read_bytes(), type=Ledger)
    except FileNotFoundError:
        return None
    except (OSError, msgspec.MsgspecError) as error:
        raise StoreError(f"{path} cannot be read: {error}", path=str(home)) from error
    if not all(_ID.fullmatch(one) for one in (ledger.current, *ledger.earlier)):
        raise StoreError(f"{path} is damaged: it names no revisions", path=str(home))
    return ledger
