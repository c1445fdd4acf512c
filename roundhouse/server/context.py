"""What every entrance is given: the gateway, the limits, the live figures; and who asks, as the guard found out."""

from __future__ import annotations

from dataclasses import dataclass

from starlette.types import Scope

from roundhouse.access.caller import ANYONE, Caller
from roundhouse.gateway import Gateway
from roundhouse.server.live import Live

__all__ = ["CALLER", "Context", "caller_of"]

CALLER = "roundhouse.caller"


@dataclass(slots=True)
class Context:
    """One for all entrances. `body_limit_bytes` may change with a reload."""

    gateway: Gateway
    live: Live
    body_limit_bytes: int


def caller_of(scope: Scope) -> Caller:
    caller: Caller = scope.get(CALLER, ANYONE)
    return caller
