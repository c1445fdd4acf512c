"""The models on disk as a configuration sees them: its store, its catalogue, and which licences it permits."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from urllib.parse import urlsplit

import platformdirs

from roundhouse.config import Settings
from roundhouse.core.chat import Sampling
from roundhouse.core.errors import InvalidRequest, ModelNotFound, NotInStore, StoreError
from roundhouse.store.catalogue import Catalogue
from roundhouse.store.download import Pace
from roundhouse.store.licences import Acceptances, LicencePolicy, licence_of
from roundhouse.store.locks import Lease
from roundhouse.store.manifest import GGUF, SAFETENSORS
from roundhouse.store.pull import Order
from roundhouse.store.references import Reference, named_after
from roundhouse.store.repository import Store
from roundhouse.store.revisions import Revision

__all__ = ["Models", "mismatch"]

_HUB = "hub:"
# One lock a revision and process, whoever asks; the system releases them with the process.
_HELD: dict[str, Lease] = {}


class Models:
    """Cheap to build; nothing is read or written before it is asked for."""

    def __init__(self, settings: Settings) -> None:
        self._asked = asked = settings.store
        path = os.path.expandvars(asked.path) if asked.path else platformdirs.user_data_path("roundhouse") / "store"
        self.store = Store(Path(path).expanduser())
        self.catalogue = Catalogue(asked.catalogue)
        self.acceptances = Acceptances(self.store.layout)
        licences = settings.licences
        self.policy = LicencePolicy(frozenset(licences.allow), frozenset(licences.deny), licences.require_commercial)

    def permit(self, name: str, *licences: str) -> None:
        """Raises `LicenceRefused` or `LicenceNotAccepted` if one of `licences` stands against the model's use."""
        for licence in dict.fromkeys(licences):
            self.policy.check(name, licence)
        for licence in dict.fromkeys(licences):
            self.acceptances.require(name, licence)

    def permit_revision(self, revision: Revision) -> None:
        """By the licence it was brought in under and by what its own files say."""
        manifest = revision.manifest
        self.permit(manifest.name, manifest.licence, *([manifest.declared] if manifest.declared else []))

    def resolve(self, text: str, form: str) -> Revision | None:
        """The revision that a target's `model` means; None = it names nothing of the catalogue or the store.

        Raises `NotInStore` for a model that is not here (saying how to get it), and what `permit` raises.
        """
        try:
            reference = Reference.parse(text)
        except InvalidRequest:
            return None
        entry = self.catalogue.get(reference.name)
        if entry is None and not self.store.survey(reference.name):
            return None
        try:
            revision = self.store.find(reference, form)
        except NotInStore as error:
            if entry is not None:
                self.permit(reference.name, entry.licence)
            raise NotInStore(f"{error}; get it with `roundhouse models pull {text}`", model=text) from error
        self.permit_revision(revision)
        return revision

    def recommended(self, text: str) -> Sampling:
        """How the makers of a model would have it sampled, where the catalogue knows a target's `model`."""
        try:
            entry = self.catalogue.get(Reference.parse(text).name)
        except InvalidRequest:
            return Sampling()
        return entry.sampling if entry is not None else Sampling()

    def hold(self, revision: Revision) -> None:
        """Keep it from being removed until this process ends: an engine may be started from it again at any time."""
        key = str(revision.folder)
        if key in _HELD:
            revision.note_use()
        elif lease := self.store.use(revision):
            _HELD[key] = lease

    def order(
        self,
        text: str,
        *,
        name: str = "",
        revision: str = "",
        licence: str = "",
        form: str = "",
        quantisation: str = "",
    ) -> Order:
        """What `text` asks to be pulled: a catalogue name, a repository OWNER/NAME of the hub, or a URL of a GGUF file.

        Raises `ModelNotFound` with the catalogue's names, `InvalidRequest`.
        """
        if name:
            name = Reference.parse(name).name
        if text.startswith(("http://", "https://")):
            try:
                plain = PurePosixPath(urlsplit(text).path).stem
            except ValueError as error:
                raise InvalidRequest(f"{text} is no address: {error}", param="model") from error
            return Order(name or named_after(plain), url=text, licence=licence.lower())
        if text.count("/") == 1:
            own = name or named_after(text.split("/")[1])
            return Order(own, text, revision or "main", "", licence.lower(), form, quantisation)
        reference = Reference.parse(text)
        entry = self.catalogue.get(reference.name)
        if entry is None:
            known = ", ".join(self.catalogue)
            raise ModelNotFound(
                f'"{text}" is not in the catalogue ({known}); name a repository OWNER/NAME, a URL, or add it to '
                "store.catalogue",
                model=text,
                known=tuple(self.catalogue),
            )
        if entry.builtin:
            raise InvalidRequest(f"{reference.name} is built in; there is nothing to pull", param="model")
        if reference.variant == SAFETENSORS:
            form = SAFETENSORS
        elif reference.variant:
            quantisation = quantisation or reference.variant
        repository = "" if entry.url else entry.repository(form)
        if not repository and not entry.url:
            raise InvalidRequest(f"the catalogue names no source of {reference.name} to pull from", param="model")
        wanted = revision or reference.revision or entry.revision
        licence = (licence or entry.licence).lower()
        return Order(name or reference.name, repository, wanted, entry.url, licence, form, quantisation)

    def renewal(self, revision: Revision) -> Order:
        """What brings the newest revision of a model on disk. Raises `InvalidRequest` for one that was imported."""
        manifest = revision.manifest
        entry = self.catalogue.get(manifest.name)
        followed = entry.revision if entry else "main"
        wanted = "" if manifest.format == SAFETENSORS or manifest.variant == GGUF else manifest.variant
        if manifest.source.startswith(_HUB):
            repository = manifest.source.removeprefix(_HUB)
            licence = manifest.licence if manifest.licence != manifest.declared else ""
            return Order(manifest.name, repository, followed, "", licence, manifest.format, wanted)
        if manifest.source.startswith(("http://", "https://")):
            return Order(manifest.name, url=manifest.source, licence=manifest.licence)
        raise InvalidRequest(
            f"{revision.reference} was imported from {manifest.source}; import the newer one under the same name",
            param="model",
        )

    def pace(self) -> Pace:
        return Pace(connections=self._asked.connections, part_bytes=self._asked.part_mib << 20)

    def licences(self) -> Iterator[tuple[Revision, str]]:
        """Each current revision on disk, and what the configuration says to its licence: empty = it may be used."""
        for revision in self.store.revisions():
            if revision.current:
                yield revision, self._objection(revision)

    def _objection(self, revision: Revision) -> str:
        try:
            self.permit_revision(revision)
        except StoreError as error:
            return str(error)
        return ""


def mismatch(revision: Revision) -> str:
    """Said where a model's own files name another licence than the one it was brought in under; else empty."""
    manifest = revision.manifest
    if not manifest.declared or manifest.declared == manifest.licence:
        return ""
    told = licence_of(manifest.declared).name
    return f"{manifest.name} is kept under {manifest.licence}, and its own files say {told}; both are enforced"
