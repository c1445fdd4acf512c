"""A model that is on this machine already: copied into the store, hashed on the way, read before it counts."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from roundhouse.core.errors import BadHeader, StoreError
from roundhouse.store.headers import read_model
from roundhouse.store.licences import licence_id
from roundhouse.store.manifest import GGUF, File, Manifest
from roundhouse.store.references import named_after
from roundhouse.store.repository import Store
from roundhouse.store.revisions import Revision
from roundhouse.store.selection import Selection, select

__all__ = ["Imported", "import_model"]

_PART = re.compile(r"-\d{5}-of-")


@dataclass(frozen=True, slots=True)
class Imported:
    revision: Revision
    left_out: tuple[str, ...]


def import_model(
    store: Store,
    source: Path,
    *,
    name: str = "",
    licence: str = "",
    quantisation: str = "",
    allow_pickle: bool = False,
    allow_code: bool = False,
    permit: Callable[[str, str], None],
) -> Imported:
    """A GGUF file (with its other parts beside it) or a folder. Raises `BadHeader` for what is no model, `StoreError`.

    `permit` is asked with the model's name and its licence before anything is copied, and raises to refuse.
    """
    source = source.expanduser().resolve()
    folder, chosen = _chosen(source, quantisation, allow_pickle=allow_pickle, allow_code=allow_code)
    facts = read_model(folder / chosen.files[0] if chosen.format == GGUF else folder)
    name = name or named_after(source.stem if source.is_file() else source.name)
    declared = licence_id(facts.licence)
    permit(name, licence or declared)
    store.prepare()
    writing = store.writing()
    try:
        files = tuple(_added(store, folder, path) for path in chosen.files)
        revision = store.publish(
            Manifest(
                name=name,
                variant=chosen.variant,
                format=chosen.format,
                files=files,
                source=str(source),
                licence=licence or declared,
                declared=declared,
            )
        )
    finally:
        writing.release()
    return Imported(revision, chosen.left_out)


def _added(store: Store, folder: Path, path: str) -> File:
    sha256, size = store.blobs.add(folder / path)
    return File(path, size, sha256)


def _chosen(source: Path, quantisation: str, *, allow_pickle: bool, allow_code: bool) -> tuple[Path, Selection]:
    if source.is_dir():
        names = [path.relative_to(source).as_posix() for path in sorted(source.rglob("*")) if path.is_file()]
        names = [name for name in names if not any(part.startswith(".") for part in name.split("/"))]
        chosen = select(
            names, quantisation=quantisation, allow_pickle=allow_pickle, allow_code=allow_code, what=str(source)
        )
        _refuse_links_out(source, chosen.files)
        return source, chosen
    if not source.exists():
        raise StoreError(f"there is no file or folder {source}", path=str(source))
    if source.suffix.lower() != ".gguf":
        raise BadHeader(f"{source} is no GGUF file; give one, or the folder of a safetensors model", path=str(source))
    beside = sorted(path.name for path in source.parent.glob("*.gguf") if _same_model(path, source))
    chosen = select(beside, form=GGUF, what=str(source))
    return source.parent, chosen


def _refuse_links_out(folder: Path, files: Sequence[str]) -> None:
    """A text of a folder that somebody else packed may be a link to one that is nobody's business.

    Weights may lie elsewhere, for they are read as such; and the hub's cache keeps its contents beside its snapshots.
    """
    homes = (folder, (folder.parent.parent / "blobs").resolve())
    for name in files:
        target = (folder / name).resolve()
        if name.endswith((".gguf", ".safetensors")) or any(target.is_relative_to(home) for home in homes):
            continue
        raise StoreError(
            f"{folder / name} is a link to {target}, outside the folder; put the file there", path=str(target)
        )


def _same_model(path: Path, source: Path) -> bool:
    return _PART.sub("-", path.name) == _PART.sub("-", source.name)
