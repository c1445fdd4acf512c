"""Where things lie in the store, and which layout it has (docs/store.md).

layout.json                                     {"layout": 1}
blobs/sha256/ab/abcd…                           contents, read-only, named by their hash
models/NAME/VARIANT/REVISION/manifest.json      what a revision consists of
models/NAME/VARIANT/REVISION/files/…            its files by name: links to blobs
models/NAME/VARIANT/current.json                the revision in use and those before it
partial/KEY/                                    downloads under way
locks/                                          held between processes
accepted.json                                   licences that were accepted
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from roundhouse.core.errors import StoreError
from roundhouse.core.files import write_atomically
from roundhouse.store.locks import locked

__all__ = ["LAYOUT", "Layout"]

LAYOUT = 1


@dataclass(frozen=True, slots=True)
class Layout:
    """The places below `root`."""

    root: Path

    @property
    def blobs(self) -> Path:
        return self.root / "blobs" / "sha256"

    @property
    def models(self) -> Path:
        return self.root / "models"

    @property
    def partial(self) -> Path:
        return self.root / "partial"

    @property
    def accepted(self) -> Path:
        return self.root / "accepted.json"

    def lock(self, name: str) -> Path:
        return self.root / "locks" / f"{name}.lock"

    def blob(self, sha256: str) -> Path:
        return self.blobs / sha256[:2] / sha256

    def variant(self, name: str, variant: str) -> Path:
        return self.models / name / variant

    def prepare(self) -> None:
        """Make the folders of a new store. Raises `StoreError` for one of a layout that is not ours."""
        try:
            self.root.mkdir(parents=True, exist_ok=True)
            with locked(self.lock("layout")):
                self._claim()
            for folder in (self.blobs, self.models, self.partial):
                folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise StoreError(
                f"the store {self.root} cannot be used: {error.strerror or error}; set store.path", path=str(self.root)
            ) from error

    def check(self) -> bool:
        """Whether there is a store. Raises `StoreError` for one of a layout that is not ours."""
        marker = self.root / "layout.json"
        try:
            found = json.loads(marker.read_bytes())["layout"]
        except FileNotFoundError:
            return False
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise StoreError(f"{marker} cannot be read: {error}", path=str(marker)) from error
        if type(found) is not int or found < 1:
            raise StoreError(f"{marker} names no layout: {str(found)[:40]}", path=str(marker))
        if found > LAYOUT:
            raise StoreError(
                f"the store {self.root} has layout {found}, and this version knows layout {LAYOUT}; "
                "use the newer Roundhouse that wrote it, or set store.path to another folder",
                path=str(self.root),
            )
        return True

    def _claim(self) -> None:
        if self.check():
            return
        if strangers := sorted(path.name for path in self.root.iterdir() if path.name != "locks"):
            raise StoreError(
                f"{self.root} is no store and not empty: {', '.join(strangers[:3])}; set store.path to a new folder",
                path=str(self.root),
            )
        write_atomically(self.root / "layout.json", json.dumps({"layout": LAYOUT}).encode())
