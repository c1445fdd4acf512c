"""What crosses from node to node comes out as it went in: requests and pieces."""

from __future__ import annotations

from roundhouse.cluster.wire import Pieces, Taken, decode_part, decode_request, encode_part, encode_request, pieces
from roundhouse.core.chat import ChatRequest, Chunk, Message, Sampling, Timings, TokenLogprob, Tool, ToolCall, Usage
from roundhouse.core.trace import TraceContext, new_id


def test_a_request_with_everything_in_it_comes_out_the_same() -> None:
    request = ChatRequest(
        (
            Message("system", "be\ud83d\ude00 brief".encode("utf-16", "surrogatepass").decode("utf-16")),
            Message("user", "hi", images=("data:x",)),
        ),
        model="m",
        sampling=Sampling(temperature=0.5, stop=("a", "b"), seed=7),
        tools=(Tool("f", "does", {"type": "object"}),),
        tool_choice={"type": "function"},
        json_schema={"type": "object", "properties": {}},
        logprobs=2,
        continue_last=True,
        extra={"n": 1, "nested": {"list": [1, None, "x"]}},
        fallback=False,
        priority=3,
        deadline_s=1.5,
        trace=TraceContext(new_id(16), new_id(8), new_id(8), state="a=b", remote=True),
    )
    assert decode_request(encode_request(request)) == request


def test_pieces_come_out_the_same() -> None:
    chunks = (
        Chunk("a", "thought", (ToolCall(0, "i", "f", "{}"),), (TokenLogprob("a", -0.5, (("b", -1.0),)),)),
        Chunk(finish_reason="stop", usage=Usage(1, 2, 3), timings=Timings(total_s=1.0), warnings=("w",)),
    )
    assert decode_part(pieces(chunks)) == Pieces(chunks)
    assert decode_part(encode_part(Taken())) == Taken()
