"""One target: a model and its settings, served by one or more replicas."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field

from msgspec.structs import replace

from roundhouse.core.chat import ChatRequest, Sampling, Worded
from roundhouse.core.errors import Error
from roundhouse.core.model import Capabilities, ModelDescription
from roundhouse.prompts.families import DEFAULT, FAMILIES, Family, fit_roles, recognise
from roundhouse.prompts.markers import tokens_in
from roundhouse.providers.base import DescribesModel, LLMProvider
from roundhouse.routing.replica import Replica

__all__ = ["Check", "Target", "TokenLimits"]

_REMEMBERED = 200


@dataclass(frozen=True, slots=True)
class TokenLimits:
    """Seconds. `first_token_s` counts from the moment the engine is ready, `between_tokens_s` from content to content,
    `thinking_s` likewise while a model reasons. `load_s` bounds a load that an attached backend does by itself.
    """

    first_token_s: float = 30.0
    between_tokens_s: float = 15.0
    thinking_s: float = 60.0
    load_s: float = 300.0


@dataclass(frozen=True, slots=True)
class Check:
    """What a target is asked before it takes over; its answer must contain `expect`, whatever the case."""

    prompt: str = "Say that you are ready."
    expect: str = ""


@dataclass(slots=True)
class Target:
    """`window_tokens`: its declared window, 0 = not declared. `family`: whose habits its model has, None = ask it.

    `tokens`: special tokens that its own chat template writes. `wanted`: how many of its replicas take requests, the
    first of them; 0 = all. `first_tokens_s`: what its last answers took to begin, from the granting of the slot.
    """

    name: str
    model: str
    replicas: Sequence[Replica]
    sampling: Sampling = field(default_factory=Sampling)
    limits: TokenLimits = field(default_factory=TokenLimits)
    capabilities: Capabilities = field(default_factory=Capabilities)
    window_tokens: int = 0
    family: Family | None = None
    tokens: frozenset[str] = frozenset()
    wanted: int = 0
    check: Check = Check()
    first_tokens_s: deque[float] = field(default_factory=lambda: deque(maxlen=_REMEMBERED))

    @property
    def active(self) -> Sequence[Replica]:
        """The replicas that take requests."""
        return self.replicas[: self.wanted] if self.wanted else self.replicas

    @staticmethod
    def family_named(name: str) -> Family | None:
        return next((known for known in FAMILIES if known.name == name), None)

    async def learn(self, client: LLMProvider) -> None:
        """Ask the model whose habits it has, once."""
        if self.family is None:
            told = await _told_by(client)
            self.tokens = tokens_in(told.chat_template)
            self.family = recognise(told.name or self.model, told.architecture, told.chat_template)

    def worded(self, request: ChatRequest) -> Worded:
        """Its prompt, if it has one, in the words for this target's model."""
        if request.wording is None:
            return Worded(request)
        return request.wording.word(request, (self.family or DEFAULT).name, (self.name, self.model), self.tokens)

    def fitted(self, request: ChatRequest, client: LLMProvider) -> ChatRequest:
        """As this target's model wants it: unset sampling by its family, turns as its template takes them."""
        if self.family is None or self.family is DEFAULT or request.raw:
            return request
        able = client.capabilities.sampling
        wanted = {name: getattr(self.family.sampling, name) for name in Sampling.__struct_fields__ if name in able}
        return replace(
            request,
            sampling=request.sampling.over(Sampling(**wanted)),
            messages=fit_roles(request.messages, self.family),
        )


async def _told_by(client: LLMProvider) -> ModelDescription:
    """The model's own word, where the backend passes it on."""
    if not isinstance(client, DescribesModel):
        return ModelDescription()
    try:
        return await client.adescribe()
    except Error:  # the request that follows will say what is wrong
        return ModelDescription()
