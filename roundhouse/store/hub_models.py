"""Models that a backend of ours fetches from the hub by itself: where they lie on this disk, and what they are."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec

from roundhouse.core.errors import BadHeader, DownloadFailed, MissingExtra, StoreError
from roundhouse.core.model import ModelFacts

__all__ = ["HubModels", "ask_hub", "cached_snapshot", "is_hub_name"]

_NAME = re.compile(r"[A-Za-z0-9][\w.-]{0,95}(/[\w.-]{1,96})?")  # huggingface_hub.utils.validate_repo_id
_LIMIT_S = 10.0
_FORGET_FAILURE_S = 60.0


def is_hub_name(text: str) -> bool:
    """Whether it reads as OWNER/REPOSITORY, or as one of the old names without an owner."""
    return bool(_NAME.fullmatch(text)) and ".." not in text and not text.endswith((".gguf", ".git"))


def cached_snapshot(repository: str, revision: str, environ: Mapping[str, str]) -> Path | None:
    """The folder in HuggingFace's cache that a download of `revision` (a branch, tag or commit) is in, if it is there.

    Its layout is documented ("Understand caching" of huggingface_hub): refs/REVISION holds a commit, snapshots/COMMIT
    the files, as far as they were fetched.
    """
    folder = _cache(environ) / f"models--{repository.replace('/', '--')}"
    if ".." in Path(revision).parts or Path(revision).is_absolute():
        return None
    try:
        commit = (folder / "refs" / revision).read_text("utf-8").strip()
    except (OSError, ValueError):
        commit = revision
    snapshot = folder / "snapshots" / commit
    return snapshot if Path(commit).name == commit and snapshot.is_dir() else None


def _cache(environ: Mapping[str, str]) -> Path:
    """As huggingface_hub's constants say."""
    if said := environ.get("HF_HUB_CACHE") or environ.get("HUGGINGFACE_HUB_CACHE"):
        return Path(os.path.expandvars(said)).expanduser()
    home = environ.get("HF_HOME") or Path(environ.get("XDG_CACHE_HOME") or "~/.cache") / "huggingface"
    return Path(os.path.expandvars(home)).expanduser() / "hub"


class _Told(msgspec.Struct):
    facts: ModelFacts | None = None
    error: str = ""
    kind: str = ""


def ask_hub(repository: str, revision: str, environ: Mapping[str, str], limit_s: float = _LIMIT_S) -> ModelFacts:
    """What the hub says of it, without its weights. Blocks for at most `limit_s`.

    Raises `DownloadFailed`, `BadHeader`, `MissingExtra`.
    """
    command = (sys.executable, "-m", "roundhouse.store.hub_headers", repository, revision)
    try:
        ended = subprocess.run(  # noqa: S603 - our own program, no shell; the name is an argument
            command, env=dict(environ), stdin=subprocess.DEVNULL, capture_output=True, timeout=limit_s, check=False
        )
    except subprocess.TimeoutExpired:
        raise DownloadFailed(f"the hub did not say within {limit_s:g} s what {repository} is", url=repository) from None
    try:
        told = msgspec.json.decode(ended.stdout, type=_Told)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        last = ended.stderr.decode("utf-8", "replace").strip().rpartition("\n")[2]
        raise DownloadFailed(f"the hub could not be asked for {repository}: {last}", url=repository) from error
    if told.facts is not None:
        return told.facts
    raise _error(told, repository)


def _error(told: _Told, repository: str) -> StoreError | MissingExtra:
    match told.kind:
        case "extra":
            return MissingExtra(told.error, extra="hub")
        case "header":
            return BadHeader(told.error, path=repository)
        case _:
            return DownloadFailed(told.error, url=repository)


@dataclass(slots=True)
class _Answer:
    at: float
    facts: ModelFacts | None = None
    error: StoreError | MissingExtra | None = None


@dataclass
class HubModels:
    """What the hub said, kept for this process; that it did not answer, for a minute. Safe in threads."""

    ask: Callable[[str, str, Mapping[str, str]], ModelFacts] = ask_hub
    clock: Callable[[], float] = time.monotonic
    _known: dict[tuple[Any, ...], _Answer] = field(default_factory=dict)
    _asking: threading.Lock = field(default_factory=threading.Lock)

    def facts(self, repository: str, revision: str, environ: Mapping[str, str]) -> ModelFacts:
        """Raises as `ask_hub` does."""
        key = (repository, revision, environ.get("HF_ENDPOINT"), environ.get("HF_TOKEN"))
        with self._asking:
            known = self._known.get(key)
            if known is None or (known.error is not None and self.clock() - known.at > _FORGET_FAILURE_S):
                known = self._known[key] = self._asked(repository, revision, environ)
        if known.facts is None:
            assert known.error is not None, "an answer has facts or an error"
            raise known.error.with_traceback(None)
        return known.facts

    def _asked(self, repository: str, revision: str, environ: Mapping[str, str]) -> _Answer:
        try:
            return _Answer(self.clock(), facts=self.ask(repository, revision, environ))
        except (StoreError, MissingExtra) as error:
            return _Answer(self.clock(), error=error)
