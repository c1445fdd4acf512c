"""Pull: list a source, choose its files, fetch them, look at what came, publish it as a revision."""

from __future__ import annotations

import asyncio
import secrets
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import PurePosixPath
from urllib.parse import unquote, urlsplit, urlunsplit

from roundhouse.core.errors import InvalidRequest, StoreError
from roundhouse.core.model import ModelFacts
from roundhouse.store.blobs import require_space
from roundhouse.store.download import Fetched, Pace, Remote, client_for, fetch, waited
from roundhouse.store.headers import read_model
from roundhouse.store.http import basic_login, without_secrets
from roundhouse.store.hub import list_repository
from roundhouse.store.licences import licence_id
from roundhouse.store.locks import Lease
from roundhouse.store.manifest import GGUF, File, Manifest, is_safe_path
from roundhouse.store.repository import Store
from roundhouse.store.revisions import Revision
from roundhouse.store.selection import Selection, select

__all__ = ["Order", "Pulled", "pull"]


@dataclass(frozen=True, slots=True)
class Order:
    """What is wanted. One of `repository` (of the hub, at `revision`) and `url` (of a GGUF file).

    `licence`: as the catalogue says, empty = as the source says. `form`: gguf or safetensors, empty = what there is.
    """

    name: str
    repository: str = ""
    revision: str = "main"
    url: str = ""
    licence: str = ""
    form: str = ""
    quantisation: str = ""
    allow_pickle: bool = False
    allow_code: bool = False


@dataclass(frozen=True, slots=True)
class Pulled:
    """`fresh`: something was fetched or switched; else it was there and current."""

    revision: Revision
    fresh: bool
    left_out: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class _Source:
    name: str
    revision: str
    declared: str
    chosen: Selection
    files: tuple[Remote, ...]
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)


async def pull(
    store: Store,
    order: Order,
    *,
    pace: Pace,
    permit: Callable[..., None],
    listen: Callable[[Fetched], None],
    current: bool = True,
) -> Pulled:
    """Bring a model into the store and make it current; the revision before it is kept and stays usable on any failure.

    `current` False: a revision that was current stays so, and the new one lies beside it.
    `permit` is asked with the name and the licences, before anything is fetched and again with what the files say.
    Raises what it raises, `DownloadFailed`, `ChecksumMismatch`, `DiskFull`, `BadHeader`.
    """
    if order.licence:
        permit(order.name, order.licence)
    source = await _source(order)
    permit(order.name, *_licences(order, source.declared))
    store.prepare()
    lock = store.layout.lock(f"pull-{order.name}:{source.chosen.variant}")
    note = Fetched("", 0, 0, f"another process is pulling {order.name}; waiting")
    async with waited(lambda: Lease(lock), lambda: listen(note)):
        writing = store.writing()
        try:
            if there := _there(store, order, source):
                fresh = not there.current
                moved = store.publish(there.manifest) if fresh and current else there
                return Pulled(moved, fresh, source.chosen.left_out)
            manifest = await _fetched(store, order, source, pace, listen)
            facts = await asyncio.to_thread(_look, store, manifest)
            own = licence_id(facts.licence)
            permit(order.name, *_licences(order, source.declared), *([own] if own else []))
            declared = source.declared or own
            licence = order.licence or declared
            revision = store.publish(replace(manifest, licence=licence, declared=declared), current=current)
        finally:
            writing.release()
    return Pulled(revision, True, source.chosen.left_out)


async def _source(order: Order) -> _Source:
    if order.url:
        return _file_source(order.url)
    found = await asyncio.to_thread(list_repository, order.repository, order.revision)
    chosen = _selected(order, [file.path for file in found.files])
    files = tuple(file for file in found.files if file.path in chosen.files)
    return _Source(f"hub:{order.repository}", found.commit, found.licence, chosen, files, found.headers)


def _selected(order: Order, names: Sequence[str]) -> Selection:
    """Of the files whose names can be kept here; that there are others is said where they may be what is missing."""
    try:
        return select(
            [name for name in names if is_safe_path(name)],
            form=order.form,
            quantisation=order.quantisation,
            allow_pickle=order.allow_pickle,
            allow_code=order.allow_code,
            what=order.repository,
        )
    except StoreError as error:
        weights = (name for name in names if name.lower().endswith((".gguf", ".safetensors")))
        if odd := next((name for name in weights if not is_safe_path(name)), ""):
            raise StoreError(f"{error} (left out: names that no file may have here, such as {odd[:80]!a})") from error
        raise


def _file_source(address: str) -> _Source:
    """One file. A login in its address is sent, and kept nowhere."""
    parts = urlsplit(address)
    login, _, host = parts.netloc.rpartition("@")
    url = urlunsplit(parts._replace(netloc=host, fragment=""))
    path = PurePosixPath(unquote(parts.path)).name
    if not host or not is_safe_path(path):
        raise InvalidRequest(
            f"{without_secrets(address)} names no file that can be kept; give a GGUF file's", param="model"
        )
    headers = {"Authorization": basic_login(unquote(login))} if login else {}
    return _Source(url, "", "", select([path], form=GGUF, what=path), (Remote(path, url),), headers)


def _there(store: Store, order: Order, source: _Source) -> Revision | None:
    """The revision on disk of the same files from the same commit of the same source, if its contents are here."""
    if not source.revision:
        return None
    for one in store.revisions(order.name, source.chosen.variant):
        manifest = one.manifest
        same = (manifest.source, manifest.revision) == (source.name, source.revision)
        same = same and {file.path for file in manifest.files} == set(source.chosen.files)
        if same and all(store.blobs.has(file.sha256, file.size) for file in manifest.files):
            return one
    return None


async def _fetched(
    store: Store, order: Order, source: _Source, pace: Pace, listen: Callable[[Fetched], None]
) -> Manifest:
    missing = [file for file in source.files if not (file.sha256 and store.blobs.has(file.sha256, file.size))]
    _room(store, missing)
    files: list[File] = []
    etag = ""
    with client_for(pace) as client:
        for remote in source.files:
            file, etag = await fetch(store, client, remote, pace, listen, source.headers)
            files.append(file)
    return Manifest(
        name=order.name,
        variant=source.chosen.variant,
        format=source.chosen.format,
        files=tuple(files),
        source=source.name,
        revision=source.revision or etag,
    )


def _room(store: Store, missing: Sequence[Remote]) -> None:
    wanted = sum(file.size for file in missing if file.size > 0)
    begun = sum(
        path.stat().st_blocks * 512
        for file in missing
        if (path := store.layout.partial / file.sha256 / "data").exists() and file.sha256
    )
    require_space(store.layout.root, max(0, wanted - begun))


def _look(store: Store, manifest: Manifest) -> ModelFacts:
    """What the fetched files say of themselves, by their names. Raises `BadHeader`; nothing is published yet."""
    folder = store.layout.partial / f"look-{secrets.token_hex(8)}"
    try:
        for file in manifest.files:
            link = folder / file.path
            link.parent.mkdir(parents=True, exist_ok=True)
            link.symlink_to(store.layout.blob(file.sha256).absolute())
        return read_model(folder / manifest.entry)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _licences(order: Order, declared: str) -> list[str]:
    said = [licence for licence in (order.licence, declared) if licence]
    return said or [""]
