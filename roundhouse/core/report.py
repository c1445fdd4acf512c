"""What happened to one request, filled in while it runs and read beside its answer."""

from __future__ import annotations

from dataclasses import dataclass, field

from roundhouse.core.errors import Attempt

__all__ = ["Choice", "Report", "Seam"]


@dataclass(frozen=True, slots=True)
class Seam:
    """Where one backend's part of an answer ends and another's begins, in characters of the text."""

    at: int
    before: str
    after: str


@dataclass(frozen=True, slots=True)
class Choice:
    """One decision: when (seconds after arrival), what came of it, and why each replica that was not chosen was not."""

    at_s: float
    outcome: str
    objections: tuple[tuple[str, str], ...] = ()


@dataclass(slots=True)
class Report:
    """Who answered and after what. `target` is empty until a candidate has begun to answer.

    `attempts` are in the order tried, the serving one last. `warnings` say what was ignored, cut or substituted.
    """

    request_id: str
    route: str
    target: str = ""
    replica: str = ""
    model: str = ""
    attempts: list[Attempt] = field(default_factory=list)
    choices: list[Choice] = field(default_factory=list)
    seams: list[Seam] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    queue_s: float = 0.0
    load_s: float = 0.0
