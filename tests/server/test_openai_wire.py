"""OpenAI's wire, parsed and encoded without a socket."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from roundhouse.core.chat import Answer, Chunk, Message, Sampling, Timings, TokenLogprob, ToolCall, Usage
from roundhouse.core.errors import InvalidRequest
from roundhouse.core.report import Report
from roundhouse.server.dialect import Asked
from roundhouse.server.openai_answers import Chat, ChatEncoder
from roundhouse.server.openai_wire import parse_chat


def _parse(**body: Any) -> Any:
    return parse_chat(json.dumps({"messages": [{"role": "user", "content": "hi"}], **body}).encode())


def test_what_is_asked_becomes_the_neutral_form() -> None:
    asked = _parse(
        model="fast", stream=True, stream_options={"include_usage": True},
        max_tokens=5, temperature=0, stop="x", seed=3,
        tools=[{"type": "function", "function": {"name": "f"}}], logprobs=True, top_logprobs=2, user="u", best_of=2,
        response_format={"type": "json_object"}, roundhouse={"fallback": False, "priority": 3},
    )  # fmt: skip
    assert (asked.stream, asked.include_usage) == (True, True)
    (request,) = asked.requests
    assert (request.model, request.sampling) == ("fast", Sampling(max_tokens=5, temperature=0.0, stop=("x",), seed=3))
    assert (request.tools[0].name, request.logprobs, request.json_schema) == ("f", 2, {})
    assert request.extra == {"user": "u", "best_of": 2}
    assert (request.fallback, request.priority) == (False, 3)


def test_max_completion_tokens_is_the_newer_name() -> None:
    assert _parse(max_completion_tokens=4, max_tokens=9).requests[0].sampling.max_tokens == 4


def test_parts_tool_results_and_developer_messages() -> None:
    text, image = {"type": "text", "text": "a"}, {"type": "image_url", "image_url": {"url": "data:x"}}
    call = {"name": "f", "arguments": "{}"}
    messages = [
        {"role": "developer", "content": "brief"},
        {"role": "user", "content": [text, image]},
        {"role": "assistant", "content": None, "tool_calls": [{"id": "c", "type": "function", "function": call}]},
        {"role": "tool", "tool_call_id": "c", "content": "42"},
    ]  # fmt: skip
    parsed = _parse(messages=messages).requests[0].messages
    assert parsed[0] == Message("system", "brief")
    assert parsed[1] == Message("user", "a", images=("data:x",))
    assert parsed[2].tool_calls == (ToolCall(0, "c", "f", "{}"),)
    assert parsed[3].tool_call_id == "c"


@pytest.mark.parametrize(
    ("body", "param", "said"),
    [
        (b"{", "", "not valid JSON"),
        (b"\xff", "", "not valid JSON"),
        (b"[1]", "", "must be a JSON object"),
        (b"{}", "", "messages"),
        (b'{"messages": []}', "messages", "send at least one"),
        (b'{"messages": [{"role": "king", "content": "x"}]}', "messages[0].role", "king"),
        (b'{"messages": [{"role": "user", "content": 3}]}', "messages[0].content", "Expected"),
        (b'{"messages": [{"role": "user", "content": "x"}], "temperature": 9}', "temperature", "between 0 and 2"),
        (b'{"messages": [{"role": "user", "content": "x"}], "max_tokens": 0}', "max_tokens", "at least 1"),
        (b'{"messages": [{"role": "user", "content": "x"}], "n": 99}', "n", "between 1 and 16"),
        (b'{"messages": [{"role": "user", "content": "x"}], "roundhouse": {"x": 1}}', "roundhouse", "unknown field"),
        (
            b'{"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "http://x"}}]}]}',
            "messages[0].content[0]",
            "nothing is fetched for you",
        ),
        (
            b'{"messages": [{"role": "user", "content": "x"}], "response_format": {"type": "xml"}}',
            "response_format",
            "json",
        ),
        (b'{"messages": ' + b"[" * 5000 + b"]" * 5000 + b"}", "", ""),
    ],
)
def test_what_cannot_be_meant_names_the_field_at_fault(body: bytes, param: str, said: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        parse_chat(body)
    assert said.lower() in str(caught.value).lower()
    assert param in (caught.value.param, "")


@given(st.binary(max_size=200))
def test_any_bytes_are_parsed_or_refused(body: bytes) -> None:
    with pytest.raises(InvalidRequest):
        parse_chat(body)


def _report() -> Report:
    return Report("id1", "default", target="t", model="m", warnings=["w"])


def test_a_whole_answer_has_everything() -> None:
    answer = Answer(
        "text", "stop", Usage(3, 2, 1), Timings(total_s=0.5), reasoning="hm", tool_calls=(ToolCall(0, "c", "f", "{}"),),
        logprobs=(TokenLogprob("é", -0.1, (("e", -2.0),)),),
    )  # fmt: skip
    told = json.loads(Chat().whole(Asked(()), [answer], [_report()]))
    choice = told["choices"][0]
    assert (told["id"], told["object"], told["model"]) == ("chatcmpl-id1", "chat.completion", "m")
    assert (choice["message"]["content"], choice["message"]["reasoning_content"]) == ("text", "hm")
    assert choice["message"]["tool_calls"][0] == {
        "type": "function",
        "id": "c",
        "function": {"name": "f", "arguments": "{}"},
    }
    assert choice["logprobs"]["content"][0]["bytes"] == [0xC3, 0xA9]
    assert told["usage"]["total_tokens"] == 5
    assert told["roundhouse"]["timings"]["total_s"] == 0.5
    assert told["roundhouse"]["warnings"] == ["w"]


def test_a_stream_is_events_of_which_the_last_has_the_finish_reason_and_usage_only_if_asked() -> None:
    for include_usage in (True, False):
        encoder = ChatEncoder([_report()], 7, include_usage=include_usage)
        raw = (
            encoder.begin()
            + encoder.piece(0, Chunk(text='a"\n'))
            + encoder.piece(0, Chunk(finish_reason="length", usage=Usage(1, 2)))
            + encoder.end()
        )
        *events, end = raw.decode().strip().split("\n\n")
        assert end == "data: [DONE]"
        told = [json.loads(event.removeprefix("data: ")) for event in events]
        assert told[0]["choices"][0]["delta"] == {"role": "assistant", "content": ""}
        assert told[1]["choices"][0]["delta"] == {"content": 'a"\n'}
        assert told[2]["choices"][0]["finish_reason"] == "length"
        assert told[2]["roundhouse"]["target"] == "t"
        assert [event["usage"]["total_tokens"] for event in told if "usage" in event] == ([3] if include_usage else [])
        assert {event["id"] for event in told} == {"chatcmpl-id1"}
