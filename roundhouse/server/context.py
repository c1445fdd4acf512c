"""What every entrance is given: the gateway, the limits, the live figures; and who asks, as the guard found out."""

from __future__ import annotations

from dataclasses import dataclass

from starlette.types import Scope

from roundhouse.access.caller import ANYONE, Caller
from roundhouse.core.errors import ModelNotFound, TemplateError
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

    def user_of(self, scope: Scope, name: str) -> Caller:
        """Who asks for `name`. Raises `NotAllowed` if he may not, `ModelNotFound` if a key names what is not there.

        A key that may use some names only is not told the others, as it would be by the gateway.
        """
        caller, name = caller_of(scope), name or "default"
        caller.check_route(name)
        if caller.routes and name not in self.gateway.names():
            raise ModelNotFound(f'there is no route or target "{name}" any more; the key still names it', model=name)
        return caller

    def check_prompt(self, caller: Caller, name: str) -> None:
        """Raises `TemplateError` for a prompt that is not there; a key of some routes only is not told which are."""
        if caller.routes:
            try:
                self.gateway.catalog.find(name)
            except TemplateError:
                raise TemplateError(f'there is no prompt "{name}"', template=name) from None


def caller_of(scope: Scope) -> Caller:
    caller: Caller = scope.get(CALLER, ANYONE)
    return caller
