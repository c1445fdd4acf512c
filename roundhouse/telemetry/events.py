"""What happened to a request, said once, when it is over."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

import msgspec

from roundhouse.core.chat import Sampling
from roundhouse.core.errors import Error, RequestError
from roundhouse.core.trace import TraceContext
from roundhouse.telemetry.buckets import Gaps

__all__ = [
    "CALLERS_OWN",
    "CLIENT_LEFT",
    "GIVEN_UP",
    "OK",
    "UNDONE",
    "Drifted",
    "EmbeddingsEnded",
    "EngineDied",
    "Event",
    "Evicted",
    "Followed",
    "LoadEnded",
    "RequestEnded",
    "RequestTraced",
    "SwitchEnded",
    "Tell",
]

OK = "ok"
CLIENT_LEFT = "client_left"
GIVEN_UP = "given_up"
UNDONE = "undone"


def _codes(kind: type[Error]) -> set[str]:
    return {kind.code}.union(*(_codes(below) for below in kind.__subclasses__()))


# Codes of what a caller did wrong, which says nothing of us or of a backend.
CALLERS_OWN = frozenset(_codes(RequestError))


class RequestEnded(msgspec.Struct, frozen=True):
    """Times in seconds by our clock. `target` is who answered, empty = nobody did.

    `own_s`: what we added, before it went to the backend and after its last piece; None = it was not answered.
    `gaps`: between the pieces of the answer as they were given on. `outcome`: `ok`, `client_left`, or the code of the
    error the client was given. `failed`: (target, error code) of every attempt that failed on the way. `first_token_s`:
    from arrival, None = there was none; `decoding_s`: from the first token to the end. `model`: the target's; `prompt`
    with its version, `variant`: the family it was worded for; `experiment` and `arm` that it was in. Names are those of
    the configuration, never what a client sent.
    """

    request_id: str
    route: str
    target: str
    outcome: str
    total_s: float
    queue_s: float = 0.0
    load_s: float = 0.0
    own_s: float | None = None
    first_token_s: float | None = None
    decoding_s: float = 0.0
    input_tokens: int = 0
    output_tokens: int = 0
    cached_tokens: int = 0
    failed: tuple[tuple[str, str], ...] = ()
    seams: int = 0
    gaps: Gaps | None = None
    model: str = ""
    prompt: str = ""
    variant: str = ""
    experiment: str = ""
    arm: str = ""

    @property
    def per_token_s(self) -> float | None:
        """Time for each output token after the first; None for fewer than two."""
        return self.decoding_s / (self.output_tokens - 1) if self.output_tokens > 1 else None


class Followed(msgspec.Struct, frozen=True):
    """One attempt of a traced request, which began `at_s` after its arrival; `first_token_s` from then.

    `outcome`: `ok`, `given_up` (its client left, or another attempt was faster), or an error's code, whose message is
    `reason`. `trace` None = it is not traced.
    """

    trace: TraceContext | None
    target: str
    replica: str
    model: str
    at_s: float
    seconds: float
    outcome: str
    reason: str = ""
    first_token_s: float | None = None


class RequestTraced(msgspec.Struct, frozen=True):
    """What a traced request tells besides, after its `RequestEnded`.

    `sampling` is the caller's own; `raw`: a text to be continued, no chat.
    """

    ended: RequestEnded
    trace: TraceContext
    attempts: tuple[Followed, ...]
    sampling: Sampling
    raw: bool = False
    finish_reason: str = ""


class EmbeddingsEnded(msgspec.Struct, frozen=True):
    """Texts of one caller were embedded, or could not be; times in seconds. `target`: who was asked, empty = nobody.

    Callers at the same time share a call of the backend; `call` is told by one of them, `shared` by all of them.
    """

    request_id: str
    route: str
    target: str
    outcome: str
    total_s: float
    texts: int
    dimensions: int = 0
    model: str = ""
    shared: bool = False
    call: Followed | None = None
    trace: TraceContext | None = None


class LoadEnded(msgspec.Struct, frozen=True):
    """A start of an engine of ours: `outcome` is `ok` or the code of what kept it from starting."""

    target: str
    outcome: str
    seconds: float


class EngineDied(msgspec.Struct, frozen=True):
    """An engine that was ready has ended, and nobody asked it to. `error`: a code."""

    target: str
    error: str


class Evicted(msgspec.Struct, frozen=True):
    """An idle engine was stopped, for another target needed its memory."""

    target: str
    wanted_by: str


class SwitchEnded(msgspec.Struct, frozen=True):
    """`outcome`: `ok`, or `undone` for one that failed and was taken back. `held_s`: how long requests were held."""

    target: str
    outcome: str
    seconds: float
    held_s: float


class Drifted(msgspec.Struct, frozen=True):
    """A target has become slower or worse than it used to be, or (`drifted` false) is no longer called so.

    `metric`: `first_token_s`, `per_token_s`, `error`, or one of feedback; `usual` and `now` in its unit.
    """

    target: str
    metric: str
    drifted: bool
    usual: float
    now: float


Event: TypeAlias = (
    RequestEnded | RequestTraced | EmbeddingsEnded | LoadEnded | EngineDied | Evicted | SwitchEnded | Drifted
)
Tell: TypeAlias = Callable[[Event], None]
