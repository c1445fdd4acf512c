"""What every entrance is given: the gateway, the limits, the live figures; and who asks, as the guard found out."""

from __future__ import annotations

from collections.abc import Callable, Container, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from starlette.types import Scope

from roundhouse.access.caller import ANYONE, Caller
from roundhouse.core.chat import ChatRequest
from roundhouse.core.errors import ModelNotFound, TemplateError
from roundhouse.gateway import Gateway
from roundhouse.gateway.trials import Caller as Unit
from roundhouse.routing.manager import Reply
from roundhouse.server.live import Live

__all__ = ["CALLER", "Answers", "Context", "Converses", "caller_of", "check_prompt", "user_of"]

CALLER = "roundhouse.caller"


class Converses(Protocol):
    """What answers for a model: the gateway, or a worker's way to it."""

    async def converse(
        self, request: ChatRequest, *, prompt: str = "", variables: Mapping[str, Any] | None = None, caller: Unit
    ) -> Reply: ...

    async def wake(self, model: str) -> None: ...


class Answers(Protocol):
    """What is needed to answer requests to models; `Context` has it."""

    @property
    def gateway(self) -> Converses: ...

    @property
    def body_limit_bytes(self) -> int: ...

    def user_of(self, scope: Scope, name: str) -> Caller: ...

    async def check_prompt(self, caller: Caller, name: str) -> None: ...


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
        return user_of(scope, name, self.gateway.names)

    async def check_prompt(self, caller: Caller, name: str) -> None:
        """Raises `TemplateError` for a prompt that is not there; a key of some routes only is not told which are."""
        if caller.routes:
            check_prompt(self.gateway, name)


def caller_of(scope: Scope) -> Caller:
    caller: Caller = scope.get(CALLER, ANYONE)
    return caller


def user_of(scope: Scope, name: str, names: Callable[[], Container[str]]) -> Caller:
    """As `Context.user_of`, where there are `names`, which are asked for where a key needs them."""
    caller, name = caller_of(scope), name or "default"
    caller.check_route(name)
    if caller.routes and name not in names():
        raise ModelNotFound(f'there is no route or target "{name}" any more; the key still names it', model=name)
    return caller


def check_prompt(gateway: Gateway, name: str) -> None:
    """Raises `TemplateError` for a prompt that is not there, without a word of those that are."""
    try:
        gateway.catalog.find(name)
    except TemplateError:
        raise TemplateError(f'there is no prompt "{name}"', template=name) from None
