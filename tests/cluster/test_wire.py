"""What crosses from node to node comes out as it went in: requests, pieces, and every error of the tree."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from roundhouse.cluster.wire import (
    Failed,
    Pieces,
    Taken,
    Told,
    decode_part,
    decode_request,
    encode_part,
    encode_request,
    pieces,
    told,
    untold,
)
from roundhouse.core import errors
from roundhouse.core.chat import ChatRequest, Chunk, Message, Sampling, Timings, TokenLogprob, Tool, ToolCall, Usage
from roundhouse.core.errors import AllProvidersFailed, Attempt, BadResponse, ConnectFailed, Died, Error, InvalidRequest
from roundhouse.core.trace import TraceContext, new_id

KINDS = [kind for name in errors.__all__ if isinstance(kind := getattr(errors, name), type) and issubclass(kind, Error)]


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


def _filled(kind: type[Error]) -> Error:
    """With a value of its own in every field."""
    values: dict[str, Any] = {"message": "what was wrong"}
    for field in dataclasses.fields(kind):
        default = field.default
        match default:
            case bool():
                values[field.name] = not default
            case int():
                values[field.name] = 7
            case float():
                values[field.name] = 1.25
            case str():
                values[field.name] = field.name
            case ():
                values[field.name] = (Attempt("t", "ok", "r", 1.0),) if field.name == "attempts" else ("a", "b")
    return kind(**values)


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_every_error_comes_out_as_itself_with_its_fields(kind: type[Error]) -> None:
    sent = _filled(kind)
    part = decode_part(encode_part(Failed(told(sent))))
    assert isinstance(part, Failed)
    found = untold(part.error)
    assert type(found) is kind
    assert dataclasses.asdict(found) == dataclasses.asdict(sent)
    assert str(found) == str(sent)


def test_the_cause_of_a_failure_of_all_crosses_with_it() -> None:
    sent = AllProvidersFailed(
        "all", attempts=(Attempt("a", "b", "c", 1.0),), cause=Died("x", log_tail=("l",), exit_status=-9)
    )
    found = untold(told(sent))
    assert isinstance(found, AllProvidersFailed)
    assert isinstance(found.cause, Died)
    assert (found.cause.exit_status, found.attempts) == (-9, sent.attempts)


def test_a_class_that_is_not_of_the_tree_crosses_as_the_nearest_that_is() -> None:
    class OfOurOwn(InvalidRequest):
        pass

    assert type(untold(told(OfOurOwn("no", param="p")))) is InvalidRequest


def test_an_error_of_a_newer_version_is_still_an_error() -> None:
    assert isinstance(untold(Told("NotThoughtOfYet", {"message": "m"})), BadResponse)
    newer = Told("ConnectFailed", {"message": "m", "refused": True, "not_thought_of_yet": 1})
    assert dataclasses.asdict(untold(newer)) == dataclasses.asdict(ConnectFailed("m", refused=True))
