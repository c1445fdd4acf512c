"""The official client's further calls: tools, schemas, several answers, completions, embeddings, responses."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest

from tests.conftest import VARO, WHO, rag_query
from tests.fakes.http import Exchange, FakeServer, fake_server
from tests.fakes.threads import in_thread
from tests.server.conftest import Served, serve

MESSAGES: Any = [{"role": "user", "content": rag_query(VARO, WHO)}]
TOOL: Any = {
    "type": "function",
    "function": {"name": "weather", "parameters": {"type": "object", "properties": {"city": {"type": "string"}}}},
}
HELLO: Any = [{"role": "user", "content": "hello"}]
PNG = "data:image/png;base64,iVBORw0KGgo="


@pytest.fixture
def demo(served: Served) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=served.url, api_key="none", max_retries=0) as made:
        yield made


@pytest.fixture
def client(able: tuple[Served, FakeServer]) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=able[0].url, api_key="none", max_retries=0) as made:
        yield made


@pytest.fixture
def fake(able: tuple[Served, FakeServer]) -> FakeServer:
    return able[1]


def test_several_answers_have_their_own_index_and_their_prompt_is_counted_once(demo: openai.OpenAI) -> None:
    one = demo.chat.completions.create(model="default", messages=MESSAGES)
    three = demo.chat.completions.create(model="default", messages=MESSAGES, n=3)
    assert [choice.index for choice in three.choices] == [0, 1, 2]
    assert {choice.message.content for choice in three.choices} == {VARO}
    assert one.usage is not None
    assert three.usage is not None
    assert three.usage.prompt_tokens == one.usage.prompt_tokens
    assert three.usage.completion_tokens == 3 * one.usage.completion_tokens
    streamed = {0: "", 1: "", 2: ""}
    usage = None
    for chunk in demo.chat.completions.create(
        model="default", messages=MESSAGES, n=3, stream=True, stream_options={"include_usage": True}
    ):
        usage = chunk.usage or usage
        for choice in chunk.choices:
            streamed[choice.index] += choice.delta.content or ""
    assert set(streamed.values()) == {VARO}
    assert usage is not None
    assert usage.completion_tokens == three.usage.completion_tokens


def test_stop_and_seed_and_logprobs_reach_the_model(demo: openai.OpenAI) -> None:
    answer = demo.chat.completions.create(
        model="default", messages=MESSAGES, stop=[" in "], seed=3, logprobs=True, top_logprobs=2, temperature=0
    )
    assert answer.choices[0].message.content == VARO.partition(" in ")[0]
    logprobs = answer.choices[0].logprobs
    assert logprobs is not None
    assert logprobs.content is not None
    assert len(logprobs.content[0].top_logprobs) == 2
    again = [
        demo.chat.completions.create(model="default", messages=MESSAGES, seed=5, temperature=1.5, max_tokens=12)
        for _ in range(2)
    ]
    assert again[0].choices[0].message.content == again[1].choices[0].message.content


def test_a_schema_binds_the_answer(demo: openai.OpenAI) -> None:
    schema = {
        "type": "object",
        "properties": {"n": {"type": "integer", "maximum": 9, "minimum": 0}},
        "required": ["n"],
        "additionalProperties": False,
    }
    answer = demo.chat.completions.create(
        model="default",
        messages=MESSAGES,
        response_format={"type": "json_schema", "json_schema": {"name": "a", "schema": schema}},
    )
    assert set(json.loads(answer.choices[0].message.content or "")) == {"n"}


def test_a_raw_text_is_extended_without_a_template(demo: openai.OpenAI) -> None:
    answer = demo.completions.create(model="default", prompt="The lighthouse of", max_tokens=6, temperature=0)
    streamed = "".join(
        chunk.choices[0].text
        for chunk in demo.completions.create(
            model="default", prompt="The lighthouse of", max_tokens=6, temperature=0, stream=True
        )
        if chunk.choices
    )
    assert answer.object == "text_completion"
    assert streamed == answer.choices[0].text
    assert answer.choices[0].finish_reason in ("length", "stop")
    echoed = demo.completions.create(model="default", prompt=["a", "b"], max_tokens=2, n=2, echo=True, logprobs=1)
    assert [choice.text[0] for choice in echoed.choices] == ["a", "a", "b", "b"]
    assert echoed.choices[0].logprobs is not None


def test_completions_refuse_what_they_cannot_mean(demo: openai.OpenAI) -> None:
    for fields in ({"prompt": [1, 2]}, {"prompt": ""}, {"prompt": "x", "suffix": "y"}, {"prompt": "x", "best_of": 3}):
        with pytest.raises(openai.BadRequestError):
            demo.completions.create(model="default", **fields)  # type: ignore[call-overload]


def test_tools_are_called_streamed_and_not(client: openai.OpenAI) -> None:
    answer = client.chat.completions.create(model="default", messages=HELLO, tools=[TOOL])
    (call,) = answer.choices[0].message.tool_calls or ()
    assert (call.id, call.function.name, call.function.arguments) == ("call_a", "weather", '{"city": "Varo"}')
    assert answer.choices[0].finish_reason == "tool_calls"
    assert answer.choices[0].message.content is None
    pieces = [
        call
        for chunk in client.chat.completions.create(model="default", messages=HELLO, tools=[TOOL], stream=True)
        for call in (chunk.choices[0].delta.tool_calls or ())
    ]
    assert pieces[0].id == "call_a"
    assert "".join(piece.function.arguments or "" for piece in pieces if piece.function) == '{"city": "Varo"}'


def test_a_streamed_call_is_named_once_and_its_tool_stays_strict(client: openai.OpenAI, fake: FakeServer) -> None:
    """Clients join the pieces: a name that comes with each would be joined too."""
    strict: Any = {"type": "function", "function": {**TOOL["function"], "strict": True}}
    told = client.chat.completions.create(model="default", messages=HELLO, tools=[strict], stream=True)
    pieces = [call.model_dump(exclude_unset=True) for one in told for call in (one.choices[0].delta.tool_calls or ())]
    assert pieces[0]["function"]["name"] == "weather"
    assert [set(piece) for piece in pieces[1:]] == [{"index", "function"}] * 2
    assert [set(piece["function"]) for piece in pieces[1:]] == [{"arguments"}] * 2
    assert fake.seen[-1].json["tools"][0]["function"]["strict"] is True


def test_functions_as_they_were_before_there_were_tools(client: openai.OpenAI, fake: FakeServer) -> None:
    function: Any = {"name": "weather", "parameters": {"type": "object"}}
    asked: Any = {"model": "default", "messages": HELLO, "functions": [function], "function_call": {"name": "weather"}}
    choice = client.chat.completions.create(**asked).choices[0]
    assert choice.finish_reason == "function_call"
    assert choice.message.function_call is not None
    assert choice.message.function_call.arguments == '{"city": "Varo"}'
    assert fake.seen[-1].json["tool_choice"] == {"type": "function", "function": {"name": "weather"}}
    chunks = [one.choices[0] for one in client.chat.completions.create(**asked, stream=True)]
    pieces = [one.delta.function_call for one in chunks if one.delta.function_call]
    assert "".join(piece.arguments or "" for piece in pieces) == '{"city": "Varo"}'
    assert chunks[-1].finish_reason == "function_call"
    called: Any = {"role": "assistant", "content": None, "function_call": {"name": "weather", "arguments": "{}"}}
    result: Any = {"role": "function", "name": "weather", "content": "sun"}
    told = client.chat.completions.create(model="default", messages=[*HELLO, called, result])
    assert told.choices[0].message.content == "You said: sun."
    sent = fake.seen[-1].json["messages"]
    assert sent[1]["tool_calls"][0]["id"] == sent[2]["tool_call_id"]


def test_a_refusal_of_an_earlier_turn_is_part_of_the_conversation(client: openai.OpenAI, fake: FakeServer) -> None:
    refused: Any = {"role": "assistant", "content": [{"type": "refusal", "refusal": "I would rather not."}]}
    client.chat.completions.create(model="default", messages=[*HELLO, refused, *HELLO])
    assert fake.seen[-1].json["messages"][1]["content"] == "I would rather not."


def test_an_empty_stop_stops_nothing(demo: openai.OpenAI) -> None:
    for stop in ("", [""], []):
        assert demo.chat.completions.create(model="default", messages=MESSAGES, stop=stop).choices[0].message.content


def test_logprobs_without_alternatives_are_told_too(demo: openai.OpenAI) -> None:
    """llama.cpp by itself tells them only beside an alternative."""
    told = demo.chat.completions.create(model="default", messages=MESSAGES, logprobs=True, max_tokens=3)
    assert told.choices[0].logprobs is not None
    assert len(told.choices[0].logprobs.content or ()) == 3
    old = demo.completions.create(model="default", prompt="The", logprobs=0, max_tokens=3).choices[0].logprobs
    assert old is not None
    assert len(old.token_logprobs or ()) == 3


def test_a_priority_is_bounded(demo: openai.OpenAI) -> None:
    """Else one client could stand before all others for ever."""
    for priority in (2**62, -(2**62), 11):
        with pytest.raises(openai.BadRequestError, match="priority"):
            demo.chat.completions.create(
                model="default", messages=MESSAGES, extra_body={"roundhouse": {"priority": priority}}
            )


def test_a_request_that_failed_has_an_id_to_ask_for(tmp_path: Path) -> None:
    async def broken(exchange: Exchange) -> None:
        await exchange.whole({"error": {"message": "no"}}, 500)

    with in_thread(fake_server(broken)) as fake:
        config = tmp_path / "c.yaml"
        config.write_text(f"llm: {{providers: [{{type: openai, model: m, endpoint: '{fake.url}'}}]}}\n")
        with serve(config) as served, openai.OpenAI(base_url=served.url, api_key="none", max_retries=0) as client:
            with pytest.raises(openai.InternalServerError) as caught:
                client.chat.completions.create(model="default", messages=HELLO)
            assert caught.value.request_id
            root = served.url.removesuffix("/v1")
            told = httpx.get(f"{root}/admin/decisions/{caught.value.request_id}").json()
            assert told["attempts"][-1]["outcome"] != "ok"
            failed = httpx.post(root + "/v1/messages", json={"model": "default", "max_tokens": 1, "messages": HELLO})
            assert failed.headers["request-id"] == failed.headers["x-request-id"]


def test_images_and_unknown_fields_reach_the_backend(client: openai.OpenAI, fake: FakeServer) -> None:
    parts: Any = [{"type": "text", "text": "what?"}, {"type": "image_url", "image_url": {"url": PNG}}]
    answer = client.chat.completions.create(
        model="default", messages=[{"role": "user", "content": parts}], extra_body={"min_tokens": 3}
    )
    assert answer.choices[0].message.content == "You said: 1 image."
    sent = fake.seen[-1].json
    assert sent["messages"][0]["content"][1]["image_url"]["url"] == PNG
    assert sent["min_tokens"] == 3


def test_embeddings_as_numbers_and_as_base64_and_cut(client: openai.OpenAI) -> None:
    plain = client.embeddings.create(model="default", input=["a", "bcd"], encoding_format="float")
    assert [row.embedding for row in plain.data] == [[1.0, 3.0, 4.0], [3.0, 3.0, 4.0]]
    packed = client.embeddings.create(model="default", input="a")  # the client asks for base64 by itself
    assert list(packed.data[0].embedding) == [1.0, 3.0, 4.0]
    cut = client.embeddings.create(model="default", input="abcd", encoding_format="float", dimensions=2)
    assert cut.data[0].embedding == [0.8, 0.6]
    for fields in ({"input": [1, 2]}, {"input": []}, {"input": "x", "dimensions": 9}):
        with pytest.raises(openai.BadRequestError):
            client.embeddings.create(model="default", **fields)  # type: ignore[arg-type]


def test_one_model_can_be_asked_for(client: openai.OpenAI) -> None:
    assert client.models.retrieve("able").id == "able"
    with pytest.raises(openai.NotFoundError):
        client.models.retrieve("nobody")


def test_a_response_is_text_with_usage(demo: openai.OpenAI) -> None:
    answer = demo.responses.create(model="default", input=MESSAGES[0]["content"], instructions="Be brief.")
    assert answer.output_text == VARO
    assert answer.status == "completed"
    assert answer.usage is not None
    assert answer.usage.output_tokens > 0
    short = demo.responses.create(model="default", input=MESSAGES[0]["content"], max_output_tokens=2)
    assert short.status == "incomplete"
    assert short.incomplete_details is not None
    assert short.incomplete_details.reason == "max_output_tokens"


def test_a_streamed_response_ends_as_the_whole_one(demo: openai.OpenAI) -> None:
    with demo.responses.stream(model="default", input=MESSAGES[0]["content"]) as stream:
        kinds = [event.type for event in stream]
        final = stream.get_final_response()
    assert final.output_text == VARO
    assert kinds[:4] == [
        "response.created",
        "response.in_progress",
        "response.output_item.added",
        "response.content_part.added",
    ]
    assert kinds[-1] == "response.completed"


def test_responses_call_functions_and_take_their_results(client: openai.OpenAI, fake: FakeServer) -> None:
    tool: Any = {"type": "function", "name": "weather", "parameters": {"type": "object"}, "strict": False}
    first = client.responses.create(model="default", input="hello", tools=[tool])
    call = first.output[0]
    assert call.type == "function_call"
    assert (call.name, call.arguments, call.call_id) == ("weather", '{"city": "Varo"}', "call_a")
    with client.responses.stream(model="default", input="hello", tools=[tool]) as stream:
        streamed = stream.get_final_response().output[0]
    assert streamed.type == "function_call"
    assert streamed.arguments == call.arguments
    items: Any = [
        {"role": "user", "content": "hello"},
        {"type": "function_call", "call_id": "call_a", "name": "weather", "arguments": "{}"},
        {"type": "function_call_output", "call_id": "call_a", "output": "sun"},
    ]
    second = client.responses.create(model="default", input=items, tools=[tool])
    assert second.output_text == "You said: sun."
    assert [message["role"] for message in fake.seen[-1].json["messages"]] == ["user", "assistant", "tool"]


def test_reasoning_is_an_item_of_its_own(client: openai.OpenAI) -> None:
    whole = client.responses.create(model="default", input="think")
    assert [item.type for item in whole.output] == ["reasoning", "message"]
    with client.responses.stream(model="default", input="think") as stream:
        assert [item.type for item in stream.get_final_response().output] == ["reasoning", "message"]


def test_a_response_has_logprobs_its_own_format_and_a_count(demo: openai.OpenAI) -> None:
    asked: Any = {"model": "default", "input": MESSAGES[0]["content"], "top_logprobs": 2}
    asked["include"] = ["message.output_text.logprobs"]
    item: Any = demo.responses.create(**asked).output[0]
    assert {len(one.top_logprobs) for one in item.content[0].logprobs} == {2}
    with demo.responses.stream(**asked) as stream:
        deltas = [event.logprobs for event in stream if event.type == "response.output_text.delta"]
        last: Any = stream.get_final_response().output[0]
    assert [one.token for one in last.content[0].logprobs] == [one.token for some in deltas for one in some]
    schema = {"type": "object", "properties": {"n": {"type": "boolean"}}, "required": ["n"]}
    form: Any = {"type": "json_schema", "name": "answer", "schema": schema}
    told: Any = demo.responses.create(model="default", input="x", text={"format": form}, truncation="auto")
    assert (told.text.format.name, "n" in json.loads(told.output_text)) == ("answer", True)
    assert any("truncation" in warning for warning in told.roundhouse["warnings"])
    assert demo.responses.input_tokens.count(model="default", input="hello").input_tokens > 1


def test_a_response_asks_the_backend_in_the_words_of_a_chat(client: openai.OpenAI, fake: FakeServer) -> None:
    client.responses.create(
        model="default", input="hello", reasoning={"effort": "low"}, parallel_tool_calls=False, max_tool_calls=2
    )
    sent = fake.seen[-1].json
    assert (sent["reasoning_effort"], sent["parallel_tool_calls"]) == ("low", False)
    assert not {"reasoning", "max_tool_calls"} & set(sent)
    with pytest.raises(openai.BadRequestError, match="nothing of type web_search"):
        client.responses.create(model="default", input="hello", tools=[{"type": "web_search"}])


def test_responses_that_would_need_a_memory_are_refused(demo: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError, match="nothing is stored"):
        demo.responses.create(model="default", input="x", previous_response_id="resp_1")
