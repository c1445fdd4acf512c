"""Licences: what each says of commercial use, what a configuration allows, what was accepted, when, in which text."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from functools import cache
from importlib.resources import files

import msgspec
import yaml

from roundhouse.core.errors import LicenceNotAccepted, LicenceRefused, StoreError
from roundhouse.core.files import write_atomically
from roundhouse.store.layout import Layout
from roundhouse.store.locks import locked

__all__ = ["Acceptance", "Acceptances", "Commercial", "Licence", "LicencePolicy", "licence_id", "licence_of"]

_ID_LENGTH = 80


class Commercial(StrEnum):
    YES = "yes"
    CONDITIONS = "conditions"
    NO = "no"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class Licence:
    """`accept`: it must be accepted once by hand before a model under it is fetched or loaded."""

    name: str
    commercial: Commercial = Commercial.UNKNOWN
    conditions: str = ""
    url: str = ""
    accept: bool = False

    @property
    def said(self) -> str:
        """Of commercial use, in a sentence."""
        return {
            Commercial.YES: "commercial use is allowed",
            Commercial.CONDITIONS: f"commercial use has conditions: {self.conditions}",
            Commercial.NO: "commercial use is not allowed",
            Commercial.UNKNOWN: "nothing is known of commercial use",
        }[self.commercial]


def licence_id(said: object) -> str:
    """An id as a model's metadata give it, fit to be compared and shown, whatever they hold."""
    text = str(said).strip().lower()
    return "".join(sign if sign.isprintable() else "?" for sign in text)[:_ID_LENGTH]


def licence_of(identity: str) -> Licence:
    """What is known of a licence by its id (as on the hub, in any case); an unknown one is that."""
    known = _known().get(identity.lower())
    return known or Licence(identity or "no licence is named")


@cache
def _known() -> Mapping[str, Licence]:
    text = (files("roundhouse.store") / "licences.yaml").read_text("utf-8")
    return msgspec.convert(yaml.safe_load(text), dict[str, Licence])


@dataclass(frozen=True, slots=True)
class LicencePolicy:
    """Ids in lower case. `allow`: a list that is closed if it is not empty. `require_commercial`: only licences that
    allow it without conditions, and those with conditions that `allow` names, for somebody has read them then.
    """

    allow: frozenset[str] = frozenset()
    deny: frozenset[str] = frozenset()
    require_commercial: bool = False

    def check(self, model: str, identity: str) -> None:
        """Raises `LicenceRefused` with the rule that forbids it."""
        wanted, licence = identity.lower(), licence_of(identity)
        shown = f"{model} is under {wanted or 'a licence that nobody names'}"
        if wanted in self.deny:
            self._refuse(f"{shown}, which licences.deny names", wanted, "licences.deny")
        if self.allow and wanted not in self.allow:
            self._refuse(f"{shown}; licences.allow has only {', '.join(sorted(self.allow))}", wanted, "licences.allow")
        read = licence.commercial is Commercial.CONDITIONS and wanted in self.allow
        if self.require_commercial and licence.commercial is not Commercial.YES and not read:
            way = " Name it in licences.allow if they are met." if licence.commercial is Commercial.CONDITIONS else ""
            self._refuse(
                f"{shown}, and licences.require_commercial is set: {licence.said}.{way}",
                wanted,
                "licences.require_commercial",
            )

    @staticmethod
    def _refuse(message: str, licence: str, rule: str) -> None:
        raise LicenceRefused(message, licence=licence, rule=rule)


@dataclass(frozen=True, slots=True)
class Acceptance:
    """`when`: UTC, ISO 8601. `text_sha256`: of the text that was accepted; `source`: where the text was."""

    model: str
    licence: str
    when: str
    text_sha256: str
    source: str
    by: str = ""


class Acceptances:
    """What was accepted in a store, by the model's name."""

    def __init__(self, layout: Layout) -> None:
        self._layout = layout

    def all(self) -> Mapping[str, Acceptance]:
        try:
            return msgspec.json.decode(self._layout.accepted.read_bytes(), type=dict[str, Acceptance])
        except FileNotFoundError:
            return {}
        except (OSError, msgspec.MsgspecError) as error:
            path = str(self._layout.accepted)
            raise StoreError(f"{path} cannot be read: {error}", path=path) from error

    def record(self, model: str, licence: str, text: str, source: str, by: str) -> Acceptance:
        self._layout.prepare()
        digest = hashlib.sha256(text.encode()).hexdigest()
        made = Acceptance(model, licence, datetime.now(UTC).isoformat(timespec="seconds"), digest, source, by)
        with locked(self._layout.lock("accepted")):
            write_atomically(self._layout.accepted, msgspec.json.encode({**self.all(), model: made}))
        return made

    def require(self, model: str, licence: str) -> None:
        """Raises `LicenceNotAccepted` if this licence asks to be accepted, and was not for this model."""
        if not licence_of(licence).accept:
            return
        made = self.all().get(model)
        if made is None or made.licence.lower() != licence.lower():
            raise LicenceNotAccepted(
                f"{model} is under the {licence_of(licence).name}, which must be accepted once: "
                f"read {licence_of(licence).url} and run `roundhouse models accept {model}`",
                licence=licence,
            )
