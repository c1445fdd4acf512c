"""What happened to one request, filled in while it runs and read beside its answer."""

from __future__ import annotations

import os
from dataclasses import dataclass, field

import msgspec

from roundhouse.core.errors import Attempt

__all__ = ["Choice", "Report", "Seam", "new_id"]


def new_id() -> str:
    """Of a request: as hard to guess as a UUID, for whoever knows it may tell what came of the answer."""
    return os.urandom(16).hex()


class Seam(msgspec.Struct, frozen=True):
    """Where one backend's part of an answer ends and another's begins, in characters of the text."""

    at: int
    before: str
    after: str


class Choice(msgspec.Struct, frozen=True):
    """One decision: when (seconds after arrival), what came of it, and why each replica that was not chosen was not."""

    at_s: float
    outcome: str
    objections: tuple[tuple[str, str], ...] = ()


@dataclass(slots=True)
class Report:
    """Who answered and after what. `target` is empty until a candidate has begun to answer.

    `prompt`: name and version of the prompt, `variant`: for which family it was worded last; empty = no prompt.
    `experiment` and `arm` that the request was in, if it was in one.
    `overhead_s`: what we took from arrival to handing it to a backend, without `queue_s` and `load_s`.
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
    prompt: str = ""
    variant: str = ""
    experiment: str = ""
    arm: str = ""
    warnings: list[str] = field(default_factory=list)
    queue_s: float = 0.0
    load_s: float = 0.0
    overhead_s: float = 0.0

    @property
    def troubled(self) -> bool:
        """Whether an operator would look: it failed, somebody was asked in vain, or a cut answer was gone on with."""
        return len(self.attempts) > 1 or bool(self.seams) or any(one.outcome != "ok" for one in self.attempts)
