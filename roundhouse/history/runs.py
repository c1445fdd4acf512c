"""The last benchmarks of this user on this machine, a folder each: `results.json`, `report.html`, `summary.json`.

A run is there whole or not at all. `summary.json` is what lists need: the results without single requests.
"""

from __future__ import annotations

import contextlib
import re
import secrets
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from roundhouse.core.errors import StoreError
from roundhouse.core.files import making_folder

__all__ = ["MOST", "Kept", "keep", "kept", "report_of"]

MOST = 100
_ID = re.compile(r"\d{8}T\d{6}-[0-9a-f]{6}")
_LARGEST_SUMMARY = 4 << 20


@dataclass(frozen=True, slots=True)
class Kept:
    """`summary` None = it cannot be read, for the `reason`."""

    id: str
    summary: Mapping[str, Any] | None
    reason: str = ""


def keep(folder: Path, began: str, results: bytes, summary: Mapping[str, Any], report: str) -> Path:
    """Add a run that began then (ISO 8601, UTC), and remove the oldest beyond `MOST`. Raises `StoreError`."""
    stamp = re.sub(r"[^0-9T]", "", began)[:15]
    number = f"{stamp}-{secrets.token_hex(3)}"
    place = folder / number
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with making_folder(place) as aside:
            (aside / "results.json").write_bytes(results)
            (aside / "summary.json").write_bytes(msgspec.json.encode(summary))
            (aside / "report.html").write_text(report, encoding="utf-8")
    except OSError as error:
        raise StoreError(f"the run cannot be kept in {folder}: {error}", path=str(folder)) from error
    for old in _ids(folder)[MOST:]:
        shutil.rmtree(folder / old, ignore_errors=True)
    return place


def kept(folder: Path) -> list[Kept]:
    """The newest first."""
    return [_read(folder / number) for number in _ids(folder)]


def report_of(folder: Path, number: str) -> bytes | None:
    """The page of a run; None if there is none of this id."""
    if _ID.fullmatch(number) is None:  # an id is never a path
        return None
    with contextlib.suppress(OSError):
        return (folder / number / "report.html").read_bytes()
    return None


def _ids(folder: Path) -> list[str]:
    try:
        return sorted((one.name for one in folder.iterdir() if _ID.fullmatch(one.name)), reverse=True)
    except OSError:
        return []


def _read(place: Path) -> Kept:
    path = place / "summary.json"
    try:
        if path.stat().st_size > _LARGEST_SUMMARY:
            return Kept(place.name, None, "its summary is too large to be one")
        found = msgspec.json.decode(path.read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        return Kept(place.name, None, str(error))
    if not (isinstance(found, dict) and isinstance(found.get("points"), list)):
        return Kept(place.name, None, "its summary is none")
    return Kept(place.name, found)
