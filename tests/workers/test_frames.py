"""What processes say to each other arrives as it was said, however the bytes are cut."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from roundhouse.core.chat import ChatRequest, Chunk, Message, Sampling, Tool, ToolCall, Usage
from roundhouse.core.errors import Attempt, InvalidRequest
from roundhouse.core.report import Report, Seam
from roundhouse.core.trace import TraceContext
from roundhouse.providers.base import Endpoint
from roundhouse.routing.contact import Contact
from roundhouse.routing.errand import Ended, Given, Head, Order, Passed, Span
from roundhouse.routing.target import TokenLimits
from roundhouse.server.workers.frames import Ask, Channel, FromOwner, FromWorker, Give, Leave, Told, Up

ASKED = ChatRequest(
    (Message("user", "Grüße", images=("data:image/png;base64,AA==",)), Message("assistant", tool_calls=(ToolCall(),))),
    model="m",
    sampling=Sampling(seed=7, stop=("x",)),
    tools=(Tool("f", parameters={"type": "object"}),),
    tool_choice={"type": "function"},
    json_schema={},
    extra={"odd": [1, None, {"a": 0.5}]},
)
REPORT = Report("id", "r", attempts=[Attempt("a", "timed_out", "why", 0.5)], seams=[Seam(3, "a", "b")], warnings=["w"])
ORDER = Order(
    "t",
    "m",
    "t#1",
    True,
    Contact("openai", Endpoint("t", "http://x", key="k", headers={"a": "b"}, options={"n": [1]})),
    TokenLimits(),
    Sampling(temperature=0.0),
    ASKED,
    Span.of(TraceContext(2**127, 2**63, 1, True, "s=1", True)),
    12.5,
    Head.of(REPORT),
)
FROM_WORKER = [
    Up(),
    Ask(1, ASKED, "id", 1.5, "p", {"v": [1, "x"]}, "u", [(b"a", b"\xff")]),
    Told(1, Ended(Given(["a", "b"]), Chunk(finish_reason="stop", usage=Usage(1, 2)), 0.1, Passed([1, 2], 0.5, 3.0))),
    Leave(1),
]


class Wire:
    """Stands for a transport."""

    def __init__(self) -> None:
        self.written = b""

    def write(self, data: bytes) -> None:
        self.written += data


def said(*frames: Any) -> bytes:
    channel: Channel[Any] = Channel(FromWorker, print, print)
    wire = Wire()
    channel.connection_made(wire)  # type: ignore[arg-type]
    for frame in frames:
        channel.tell(frame)
    return wire.written


@given(st.lists(st.integers(1, 40), max_size=400))
def test_frames_arrive_whole_at_any_cut(sizes: list[int]) -> None:
    heard: list[Any] = []
    channel: Channel[Any] = Channel(FromWorker, heard.append, print)
    data = said(*FROM_WORKER)
    for size in sizes:
        channel.data_received(data[:size])
        data = data[size:]
    channel.data_received(data)
    assert heard == FROM_WORKER


def test_an_order_says_all_that_an_attempt_needs() -> None:
    heard: list[Any] = []
    channel: Channel[Any] = Channel(FromOwner, heard.append, print)
    channel.data_received(said(Give(1, ORDER)))
    order = heard[0].order
    assert order == ORDER
    assert order.asked(ASKED).trace == TraceContext(2**127, 2**63, 1, True, "s=1", True)
    assert order.asked(ASKED).sampling == Sampling(temperature=0.0)
    report = Report("id", "")
    order.head.onto(report)
    assert report == REPORT


def test_what_cannot_be_said_is_an_error_of_its_request_and_nothing_is_sent() -> None:
    channel: Channel[Any] = Channel(FromWorker, print, print)
    wire = Wire()
    channel.connection_made(wire)  # type: ignore[arg-type]
    for odd in (2**64, "\ud800"):
        with pytest.raises(InvalidRequest):
            channel.tell(Ask(1, ChatRequest.of("x", extra={"odd": odd}), "", 0.0, "", {}, "", []))
    assert wire.written == b""
