"""Scorers by name: those of the house, and anybody's, by `module:function` or as an entry point."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from importlib import import_module
from importlib.metadata import entry_points
from typing import Any, TypeAlias

from roundhouse.core.errors import InvalidRequest
from roundhouse.scoring.text import exact_match, f1, fits, is_json, is_refusal, rouge_l

__all__ = ["ENTRY_POINTS", "NEED_RIGHT", "SCORERS", "Scored", "Scorer", "find", "score"]

# The group in which a package announces its scorers.
ENTRY_POINTS = "roundhouse.scorers"


@dataclass(frozen=True, slots=True)
class Scored:
    """What a scorer is given. `right`: all right answers, empty = unknown; `values`: the texts of the dataset's row, or
    of the prompt's variables; `schema`: what the request wanted the answer to be, None = free text.
    """

    answer: str
    right: tuple[str, ...] = ()
    values: Mapping[str, str] = field(default_factory=dict)
    schema: Mapping[str, Any] | None = None


# Gives a finite number, or a truth value.
Scorer: TypeAlias = Callable[[Scored], float]

SCORERS: Mapping[str, Scorer] = {
    "exact_match": lambda one: exact_match(one.answer, one.right),
    "f1": lambda one: f1(one.answer, one.right),
    "rouge_l": lambda one: rouge_l(one.answer, one.right),
    "format": lambda one: float(fits(one.answer, one.schema)),
    "json": lambda one: float(is_json(one.answer)),
    "refusal": lambda one: float(is_refusal(one.answer)),
    "characters": lambda one: float(len(one.answer)),
}
NEED_RIGHT = frozenset({"exact_match", "f1", "rouge_l"})


def find(name: str) -> Scorer:
    """Raises `InvalidRequest` for a name that leads to nothing that can be called."""
    if name in SCORERS:
        return SCORERS[name]
    for point in entry_points(group=ENTRY_POINTS, name=name):
        return _callable(name, point.load)
    module, colon, attribute = name.partition(":")
    if not (module and colon and attribute):
        known = ", ".join(sorted({*SCORERS, *(point.name for point in entry_points(group=ENTRY_POINTS))}))
        said = f'there is no scorer "{name}"; there are {known}, and any package.module:function'
        raise InvalidRequest(said, param="metric")
    return _callable(name, lambda: getattr(import_module(module), attribute))


def score(name: str, scorer: Scorer, given: Scored) -> float:
    """Raises `InvalidRequest` for a scorer that fails or gives no finite number."""
    try:
        value = float(scorer(given))
    except Exception as error:
        raise InvalidRequest(f'scorer "{name}" failed: {type(error).__name__}: {error}', param="metric") from error
    if not math.isfinite(value):
        raise InvalidRequest(f'scorer "{name}" gave {value}, which is no finite number', param="metric")
    return value


def _callable(name: str, load: Callable[[], object]) -> Scorer:
    try:
        found = load()
    except Exception as error:
        said = f'scorer "{name}" cannot be loaded: {type(error).__name__}: {error}'
        if isinstance(error, ModuleNotFoundError):
            said += "; put its folder on PYTHONPATH"
        raise InvalidRequest(said, param="metric") from error
    if not callable(found):
        raise InvalidRequest(f'scorer "{name}" is {type(found).__name__}, which cannot be called', param="metric")
    return found
