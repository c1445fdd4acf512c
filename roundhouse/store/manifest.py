"""A manifest: what one revision of a model consists of, and where it came from."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import msgspec

from roundhouse.core.errors import StoreError
from roundhouse.store.references import is_name

__all__ = ["GGUF", "SAFETENSORS", "File", "Manifest", "is_safe_path", "read_manifest"]

GGUF, SAFETENSORS = "gguf", "safetensors"
_SHA256 = re.compile(r"[0-9a-f]{64}")
_ID_DIGITS = 16
_PART_BYTES = 255  # NAME_MAX of Linux's file systems
_PATH_LENGTH = 1024


@dataclass(frozen=True, slots=True)
class File:
    """`path` is relative, with slashes; `size` in bytes."""

    path: str
    size: int
    sha256: str


@dataclass(frozen=True, slots=True)
class Manifest:
    """`source` is where it came from (`hub:owner/repo`, a URL, a path) and `revision` the source's own version of it.

    `licence` is the one that counts, `declared` what the model's own metadata say; empty = nothing is said.
    `created` is UTC, ISO 8601.
    """

    name: str
    variant: str
    format: str
    files: tuple[File, ...]
    source: str = ""
    revision: str = ""
    licence: str = ""
    declared: str = ""
    created: str = ""

    @property
    def id(self) -> str:
        """By content: the same files are the same revision, wherever they came from."""
        lines = sorted(f"{file.sha256} {file.path}\n" for file in self.files)
        return hashlib.sha256("".join(lines).encode()).hexdigest()[:_ID_DIGITS]

    @property
    def size(self) -> int:
        return sum(file.size for file in self.files)

    @property
    def entry(self) -> str:
        """What a backend is given, below the revision's files: the (first) GGUF file, or the folder itself."""
        if self.format != GGUF:
            return "."
        return min(file.path for file in self.files if file.path.lower().endswith(".gguf"))

    def encoded(self) -> bytes:
        return msgspec.json.format(msgspec.json.encode(self), indent=2)


def read_manifest(path: Path) -> Manifest:
    """Raises `StoreError` for one that is absent, damaged, or names places outside its folder."""
    try:
        manifest = msgspec.json.decode(path.read_bytes(), type=Manifest)
    except (OSError, msgspec.MsgspecError) as error:
        raise StoreError(f"the manifest {path} cannot be read: {error}", path=str(path)) from error
    sound = manifest.files and all(
        is_safe_path(file.path) and _SHA256.fullmatch(file.sha256) and file.size >= 0 for file in manifest.files
    )
    known = manifest.format in (GGUF, SAFETENSORS)
    if manifest.format == GGUF:
        known = any(file.path.lower().endswith(".gguf") for file in manifest.files)
    if not sound or not known or not is_name(manifest.name) or not is_name(manifest.variant):
        raise StoreError(f"the manifest {path} is damaged", path=str(path))
    return manifest


def is_safe_path(text: str) -> bool:
    """Whether a file of this name stays below its folder, can be made there, and can be shown on a terminal."""
    parts = PurePosixPath(text).parts
    bad = any(part.startswith((".", "/")) or len(part.encode("utf-8", "replace")) > _PART_BYTES for part in parts)
    return bool(parts) and not bad and text.isprintable() and "\\" not in text and len(text) < _PATH_LENGTH
