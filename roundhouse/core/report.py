"""What happened to one request, filled in while it runs and read beside its answer."""

from __future__ import annotations

from dataclasses import dataclass, field

from roundhouse.core.errors import Attempt

__all__ = ["Report"]


@dataclass(slots=True)
class Report:
    """Who answered and after what. `target` is empty until a candidate has begun to answer.

    `attempts` are in the order tried, the serving one last. `warnings` say what was ignored, cut or substituted.
    """

    request_id: str
    route: str
    target: str = ""
    model: str = ""
    attempts: list[Attempt] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    queue_s: float = 0.0
    load_s: float = 0.0
