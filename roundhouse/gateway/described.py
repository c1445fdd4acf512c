"""What a target's model is, wherever its files lie: on this disk, in HuggingFace's cache, or still on the hub."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from roundhouse.config import Licences, Settings, TargetSettings
from roundhouse.core.errors import BadHeader, MissingExtra, StoreError
from roundhouse.core.model import ModelFacts
from roundhouse.gateway.models import Models
from roundhouse.gateway.plan import located
from roundhouse.store.headers import read_model
from roundhouse.store.hub_models import HubModels, cached_snapshot, is_hub_name

__all__ = ["Described", "described"]

_hub = HubModels()


@dataclass(frozen=True, slots=True)
class Described:
    """`model` is what the backend is told to load. `facts` None = nothing is known before it is loaded, for the reason
    in `note`.
    """

    model: str
    path: Path
    facts: ModelFacts | None
    note: str = ""


def described(entry: TargetSettings, settings: Settings) -> Described:
    """Blocks; asks the hub if the files are not here. Raises `BadHeader` for files that are here and cannot be read,
    and for licences and catalogue what `located` raises.
    """
    path = located(entry, settings)
    if path.exists() or not is_hub_name(entry.model):
        return Described(str(path), path, read_model(path))
    return _of_the_hub(entry, settings)


def _of_the_hub(entry: TargetSettings, settings: Settings) -> Described:
    environ = {**os.environ, **entry.env}
    revision = str(entry.options.get("revision") or "main")
    facts, path = _cached(entry.model, revision, environ)
    cares = settings.licences != Licences()
    note = ""
    if facts is None or (cares and not facts.licence):  # what transformers fetches has no card with a licence
        try:
            facts = _hub.facts(entry.model, revision, environ)
        except (StoreError, MissingExtra) as error:
            note = "" if facts else f"what it will take is not known before it is loaded: {error}"
    if cares:
        Models(settings).policy.check(entry.model, facts.licence if facts else "")
    return Described(entry.model, path, facts, note)


def _cached(name: str, revision: str, environ: dict[str, str]) -> tuple[ModelFacts | None, Path]:
    """Of a download that is whole."""
    snapshot = cached_snapshot(name, revision, environ)
    if snapshot is not None:
        try:
            return read_model(snapshot), snapshot
        except BadHeader:  # it stopped halfway, or holds what only the backend can read
            pass
    return None, Path(name)
