"""What the owner and a worker say to each other: msgpack, each frame after its length in four bytes."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, Generic, TypeVar, cast

import msgspec

from roundhouse.config.settings import Auth, Server, StateSettings
from roundhouse.core.chat import ChatRequest
from roundhouse.core.errors import InvalidRequest
from roundhouse.routing.errand import Began, Ended, Failed, Left, Order

__all__ = [
    "Ask",
    "Beat",
    "Channel",
    "Done",
    "Enter",
    "Find",
    "FromOwner",
    "FromWorker",
    "Give",
    "Going",
    "Leave",
    "Refused",
    "Setup",
    "Spend",
    "Stop",
    "Told",
    "Up",
    "Wake",
]

_LENGTH_BYTES = 4
_LONGEST_BYTES = (1 << 32) - 1
_encoder = msgspec.msgpack.Encoder()
T = TypeVar("T")


class Ask(msgspec.Struct, frozen=True, tag=True):
    """A request that was parsed: answer it. `arrived` by the monotonic clock; `headers` are the client's."""

    id: int
    request: ChatRequest
    request_id: str
    arrived: float
    prompt: str
    variables: dict[str, Any]
    unit: str
    headers: list[tuple[bytes, bytes]]


class Told(msgspec.Struct, frozen=True, tag=True):
    """What came of the attempt of a request."""

    id: int
    outcome: Began | Ended | Failed | Left


class Wake(msgspec.Struct, frozen=True, tag=True):
    """Make an engine of `model` ready. Answered by `Done` or `Refused`."""

    id: int
    model: str


class Enter(msgspec.Struct, frozen=True, tag=True):
    """So many requests of a key with limits begin. Answered by `Done` or `Refused`; after `Done`, `Leave` ends them."""

    id: int
    digest: str
    count: int


class Find(msgspec.Struct, frozen=True, tag=True):
    """Is there such a prompt? Answered by `Done` or `Refused`, without a word of others."""

    id: int
    prompt: str


class Spend(msgspec.Struct, frozen=True, tag=True):
    """Tokens of the key that entered under `id`."""

    id: int
    tokens: int


class Leave(msgspec.Struct, frozen=True, tag=True):
    id: int


class Up(msgspec.Struct, frozen=True, tag=True):
    """Connections are taken from now on."""


class Going(msgspec.Struct, frozen=True, tag=True):
    """It leaves, for somebody has told it to: it should be given no connection any more."""


class Beat(msgspec.Struct, frozen=True, tag=True):
    """Told all the time. `taken`: connections so far, of which `open` are there still; `begun`: requests whose first
    piece was given on; `moved`: when a replica gave something last.
    """

    taken: int
    open: int
    begun: list[int]
    moved: dict[str, float]


class Setup(msgspec.Struct, frozen=True, tag=True):
    """What a worker is told when it starts and after every reload. `connections`: its share of those of the server.

    `names` may be put into `model`. `asks_for_keys`: keys are needed even if there are none any more. `carries`: it may
    carry attempts out; else all requests are passed on as they are.
    """

    server: Server
    auth: Auth
    state: StateSettings
    source: str
    connections: int
    names: tuple[str, ...]
    asks_for_keys: bool
    carries: bool
    log_json: bool
    log_level: str


class Give(msgspec.Struct, frozen=True, tag=True):
    """The next attempt of a request: carry it out."""

    id: int
    order: Order


class Refused(msgspec.Struct, frozen=True, tag=True):
    """`error` as `portable` tells it; nothing more comes under `id`."""

    id: int
    error: dict[str, Any]


class Done(msgspec.Struct, frozen=True, tag=True):
    id: int


class Stop(msgspec.Struct, frozen=True, tag=True):
    """Take nothing more, finish what runs, and leave."""


FromWorker = Ask | Told | Wake | Find | Enter | Spend | Leave | Up | Going | Beat
FromOwner = Setup | Give | Refused | Done | Stop


class Channel(asyncio.Protocol, Generic[T]):
    """One end. `hear` is given every frame, `lost` is called once when the other end is gone.

    Writing never waits: whoever writes looks at `waiting_bytes`.
    """

    def __init__(self, kind: Any, hear: Callable[[T], None], lost: Callable[[], None]) -> None:
        self._decoder = msgspec.msgpack.Decoder(kind)
        self._hear = hear
        self._lost = lost
        self._transport: asyncio.WriteTransport | None = None
        self._rest = bytearray()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.WriteTransport", transport)  # uvloop's is none by its class

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None
        self._lost()

    def data_received(self, data: bytes) -> None:
        rest = self._rest
        rest += data
        at = 0
        while len(rest) - at >= _LENGTH_BYTES:
            end = at + _LENGTH_BYTES + int.from_bytes(rest[at : at + _LENGTH_BYTES])
            if len(rest) < end:
                break
            frame = self._decoder.decode(bytes(rest[at + _LENGTH_BYTES : end]))
            at = end
            self._hear(frame)
        del rest[:at]

    def tell(self, frame: msgspec.Struct) -> None:
        """Raises `InvalidRequest` for what cannot be said; nothing is sent when the other end is gone."""
        try:
            body = _encoder.encode(frame)
        except (OverflowError, UnicodeEncodeError) as error:
            raise InvalidRequest(f"the request cannot be passed on: {error}; numbers have at most 64 bits") from error
        if len(body) > _LONGEST_BYTES:
            raise InvalidRequest("the request is too large")
        if self._transport is not None:
            self._transport.write(len(body).to_bytes(_LENGTH_BYTES) + body)

    @property
    def waiting_bytes(self) -> int:
        """Written, and not taken by the other end yet."""
        return 0 if self._transport is None else self._transport.get_write_buffer_size()

    def close(self) -> None:
        if self._transport is not None:
            self._transport.close()
