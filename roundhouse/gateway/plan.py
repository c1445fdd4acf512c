"""What an entry of the configuration is: ours to run or not, where its files are, how far it is to be stretched."""

from __future__ import annotations

import os
from pathlib import Path

from roundhouse.config import Licences, Settings, TargetSettings
from roundhouse.core.model import ModelFacts
from roundhouse.engines import launch
from roundhouse.gateway.demo import DEMO_MODEL, demo_gguf, demo_safetensors
from roundhouse.gateway.models import Models
from roundhouse.store.headers import read_model
from roundhouse.store.manifest import GGUF, SAFETENSORS
from roundhouse.store.revisions import Revision

__all__ = ["MANAGED", "is_demo", "is_managed", "located", "slots_of", "stored", "window_of"]

# Types whose backend we can run.
MANAGED = ("llamacpp", "huggingface", "vllm")


def is_demo(entry: TargetSettings) -> bool:
    return entry.model == DEMO_MODEL and not entry.endpoint


def is_managed(entry: TargetSettings) -> bool:
    """Whether we start it: a type of ours without an endpoint. vLLM only by a program that the user names."""
    return not entry.endpoint and entry.type in MANAGED and (entry.type != "vllm" or bool(entry.executable))


def slots_of(entry: TargetSettings) -> int:
    """Requests that a managed entry serves at once."""
    option, default = {
        "llamacpp": ("n_parallel", launch.DEFAULT_SLOTS),
        "huggingface": ("n_parallel", launch.HUGGINGFACE_SLOTS),
        "vllm": ("max_num_seqs", launch.VLLM_SLOTS),
    }[entry.type]
    return int(entry.options.get(option, default))


def located(entry: TargetSettings, settings: Settings) -> Path:
    """Its file or folder: that of the demo, as written, beside the configuration's folder, or that in the store.

    Raises `LicenceRefused` or `LicenceNotAccepted` for what the configuration does not permit, and `NotInStore` for a
    name of the catalogue that is not on disk.
    """
    if entry.model == DEMO_MODEL:
        return demo_gguf() if entry.type == "llamacpp" else demo_safetensors()
    path = Path(os.path.expandvars(entry.model)).expanduser()
    beside = Path(settings.source).parent / path
    for place in (path, beside):
        if place.exists():
            _permit_file(place, settings)
            return place
    revision = stored(entry, settings)
    return revision.path if revision else path


def stored(entry: TargetSettings, settings: Settings) -> Revision | None:
    """The revision of the store that its `model` names; None = it names none. Raises as `located` does."""
    if is_demo(entry) or not is_managed(entry):
        return None
    return Models(settings).resolve(entry.model, GGUF if entry.type == "llamacpp" else SAFETENSORS)


def _permit_file(path: Path, settings: Settings) -> None:
    """A file that is not in the store has the licence that it names itself, if the configuration cares."""
    if settings.licences != Licences():
        Models(settings).policy.check(path.name, read_model(path).licence)


def window_of(entry: TargetSettings, facts: ModelFacts) -> int:
    """Tokens of one request: as asked, else as trained."""
    return int(entry.options.get("n_ctx") or facts.context)
