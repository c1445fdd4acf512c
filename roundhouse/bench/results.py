"""The file of one run: versioned JSON, checked when it is read, whole or not there at all when it is written."""

from __future__ import annotations

import platform
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import msgspec

from roundhouse.bench.happenings import Happening
from roundhouse.bench.quality import Quality
from roundhouse.bench.records import DEFINITIONS, Record
from roundhouse.bench.sampling import Sample
from roundhouse.bench.statistics import METHOD
from roundhouse.bench.summary import Summary, Window, summarise
from roundhouse.core.errors import InvalidRequest
from roundhouse.core.files import write_atomically
from roundhouse.resources.hardware import cpu, usable_threads

__all__ = ["VERSION", "Machine", "Point", "Results", "machine", "read", "schema", "write"]

VERSION = 2


@dataclass(frozen=True, slots=True)
class Machine:
    """Where it ran. `cores` (hardware threads) and memory that this process may use, by its control groups too."""

    system: str
    processor: str
    cores: float
    memory_bytes: int
    python: str


@dataclass(frozen=True, slots=True)
class Point:
    """One load that was driven: `load` in words and `level` as a number (requests a second, or users), its unit in
    `unit`. `repeat` counts from 0; points of the same load are repeats of each other. `happened`: to engines and
    routes meanwhile.
    """

    load: str
    level: float
    unit: str
    repeat: int
    window: Window
    summary: Summary
    quality: Quality | None
    records: list[Record]
    samples: list[Sample] = field(default_factory=list)
    happened: list[Happening] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Results:
    """One run. `subject`: what was asked; `settings`: everything needed to run it again; times in UTC.

    `ended_early`: why it was not driven to its end; empty = it was.
    """

    version: int
    label: str
    began: str
    subject: Mapping[str, str]
    settings: Mapping[str, Any]
    machine: Machine
    points: list[Point]
    slos: Mapping[str, float] = field(default_factory=dict)
    definitions: Mapping[str, str] = field(default_factory=lambda: DEFINITIONS)
    percentiles: str = METHOD
    ended_early: str = ""


def machine() -> Machine:
    return Machine(
        platform.platform(terse=True),
        platform.machine(),
        usable_threads(),
        cpu().total_bytes,
        platform.python_version(),
    )


def write(path: Path, results: Results) -> None:
    """Whole or not at all: a run that took an hour does not end as half a file."""
    data = msgspec.json.encode(results)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, data)


class _Versioned(msgspec.Struct):
    version: int


def read(path: Path) -> Results:
    """Raises `InvalidRequest`, which says what is wrong with the file."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise InvalidRequest(f"{path} cannot be read: {error.strerror or error}", param="results") from error
    try:
        version = msgspec.json.decode(data, type=_Versioned).version
        if not 1 <= version <= VERSION:
            said = f"{path} has version {version} of the results; this Roundhouse reads 1 to {VERSION}"
            raise InvalidRequest(said, param="results")
        found = msgspec.json.decode(data, type=Results)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise InvalidRequest(f"{path} is no file of results, or not a whole one: {error}", param="results") from error
    if not found.points:
        raise InvalidRequest(f"{path} has no points: nothing was measured", param="results")
    return found if version == VERSION else _renewed(found)


def _renewed(found: Results) -> Results:
    """Version 1 counted as answered per second what was due in the window, answered or not by its end."""
    points = [
        replace(one, summary=summarise(one.records, one.window, found.slos, paced=one.unit == "requests/s"))
        for one in found.points
    ]
    return replace(found, version=VERSION, points=points)


def schema() -> dict[str, Any]:
    """The JSON Schema of the file."""
    return msgspec.json.schema(Results)
