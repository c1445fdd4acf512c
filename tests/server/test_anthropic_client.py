"""The official Anthropic client works over any backend."""

import json
from collections.abc import Iterator
from typing import Any

import anthropic
import pytest

from tests.conftest import VARO, WHO, rag_query
from tests.fakes.http import FakeServer
from tests.server.conftest import Served

MESSAGES: Any = [{"role": "user", "content": rag_query(VARO, WHO)}]
HELLO: Any = [{"role": "user", "content": "hello"}]
TOOL: Any = {"name": "weather", "input_schema": {"type": "object", "properties": {"city": {"type": "string"}}}}


@pytest.fixture
def demo(served: Served) -> Iterator[anthropic.Anthropic]:
    with anthropic.Anthropic(base_url=served.url.removesuffix("/v1"), api_key="none", max_retries=0) as made:
        yield made


@pytest.fixture
def client(able: tuple[Served, FakeServer]) -> Iterator[anthropic.Anthropic]:
    with anthropic.Anthropic(base_url=able[0].url.removesuffix("/v1"), api_key="none", max_retries=0) as made:
        yield made


def _text(message: Any) -> str:
    return "".join(block.text for block in message.content if block.type == "text")


def test_a_message_whole_and_streamed(demo: anthropic.Anthropic) -> None:
    whole = demo.messages.create(model="default", max_tokens=100, messages=MESSAGES)
    assert _text(whole) == VARO
    assert (whole.stop_reason, whole.role) == ("end_turn", "assistant")
    assert whole.usage.output_tokens > 0
    with demo.messages.stream(model="default", max_tokens=100, messages=MESSAGES) as stream:
        assert "".join(stream.text_stream) == VARO
        final = stream.get_final_message()
    assert final.usage.output_tokens == whole.usage.output_tokens
    short = demo.messages.create(model="default", max_tokens=2, messages=MESSAGES)
    assert short.stop_reason == "max_tokens"


def test_the_assistants_last_message_is_extended(demo: anthropic.Anthropic) -> None:
    begun = VARO[:20]
    messages = [*MESSAGES, {"role": "assistant", "content": begun}]
    answer = demo.messages.create(model="default", max_tokens=100, messages=messages, extra_body={"temperature": 0})
    assert begun + _text(answer) == VARO


def test_tokens_are_counted(demo: anthropic.Anthropic) -> None:
    counted = demo.messages.count_tokens(model="default", messages=MESSAGES)
    answer = demo.messages.create(model="default", max_tokens=1, messages=MESSAGES)
    used = answer.usage
    assert abs(counted.input_tokens - used.input_tokens - (used.cache_read_input_tokens or 0)) <= 1


def test_tools_are_used_and_their_results_taken(client: anthropic.Anthropic, able: tuple[Served, FakeServer]) -> None:
    answer = client.messages.create(model="default", max_tokens=10, messages=HELLO, tools=[TOOL], system="Be brief.")
    (use,) = answer.content
    assert use.type == "tool_use"
    assert (use.name, use.input, answer.stop_reason) == ("weather", {"city": "Varo"}, "tool_use")
    with client.messages.stream(model="default", max_tokens=10, messages=HELLO, tools=[TOOL]) as stream:
        (streamed,) = stream.get_final_message().content
    assert streamed.type == "tool_use"
    assert streamed.input == {"city": "Varo"}
    turns: Any = [
        *HELLO,
        {"role": "assistant", "content": [{"type": "tool_use", "id": use.id, "name": use.name, "input": use.input}]},
        {"role": "user", "content": [{"type": "tool_result", "tool_use_id": use.id, "content": "sun"}]},
    ]
    assert (
        _text(client.messages.create(model="default", max_tokens=10, messages=turns, tools=[TOOL])) == "You said: sun."
    )
    sent = able[1].seen[-1].json["messages"]
    assert [message["role"] for message in sent] == ["user", "assistant", "tool"]
    assert sent[1]["tool_calls"][0]["function"]["arguments"] == '{"city":"Varo"}'


def test_thinking_and_images(client: anthropic.Anthropic) -> None:
    thought = client.messages.create(model="default", max_tokens=10, messages=[{"role": "user", "content": "think"}])
    assert [block.type for block in thought.content] == ["thinking", "text"]
    image: Any = {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "iVBORw0KGgo="}}
    seen = client.messages.create(
        model="default", max_tokens=10, messages=[{"role": "user", "content": [{"type": "text", "text": "?"}, image]}]
    )
    assert _text(seen) == "You said: 1 image."


def test_what_its_own_servers_would_do_is_said_and_not_sent_on(
    able: tuple[Served, FakeServer], client: anthropic.Anthropic
) -> None:
    """Programs made for it send these with every request; a backend of another wire would refuse them."""
    theirs: Any = {"thinking": {"type": "enabled", "budget_tokens": 1024}, "service_tier": "auto"}
    told: Any = client.messages.create(model="default", max_tokens=2000, messages=HELLO, **theirs)
    assert [warning.partition(" ")[0] for warning in told.roundhouse["warnings"]] == ["service_tier", "thinking"]
    assert not {"thinking", "service_tier"} & set(able[1].seen[-1].json)
    choice: Any = {"type": "any", "disable_parallel_tool_use": True}
    client.messages.create(model="default", max_tokens=9, messages=HELLO, tools=[TOOL], tool_choice=choice)
    sent = able[1].seen[-1].json
    assert (sent["tool_choice"], sent["parallel_tool_calls"]) == ("required", False)


def test_documents_of_text_are_read_and_others_refused(
    able: tuple[Served, FakeServer], client: anthropic.Anthropic
) -> None:
    def asked(source: Any) -> Any:
        content: Any = [{"type": "document", "title": "Varo", "source": source}, {"type": "text", "text": "Who?"}]
        return client.messages.create(model="default", max_tokens=9, messages=[{"role": "user", "content": content}])

    asked({"type": "text", "media_type": "text/plain", "data": "Built in 1871. "})
    assert able[1].seen[-1].json["messages"][0]["content"] == "Varo\n\nBuilt in 1871. Who?"
    with pytest.raises(anthropic.BadRequestError, match="documents must be of type text"):
        asked({"type": "base64", "media_type": "application/pdf", "data": "AA=="})


def test_a_schema_binds_the_answer_and_its_id_is_where_the_client_looks(demo: anthropic.Anthropic) -> None:
    schema = {"type": "object", "properties": {"n": {"type": "boolean"}}, "required": ["n"]}
    config: Any = {"format": {"type": "json_schema", "schema": schema}}
    told = demo.messages.create(model="default", max_tokens=60, messages=MESSAGES, output_config=config)
    assert set(json.loads(_text(told))) == {"n"}
    assert told._request_id == told.id.removeprefix("msg_")


def test_errors_are_anthropics(demo: anthropic.Anthropic) -> None:
    with pytest.raises(anthropic.NotFoundError) as missing:
        demo.messages.create(model="nobody", max_tokens=1, messages=MESSAGES)
    body: Any = missing.value.body
    assert body["error"]["type"] == "not_found_error"
    with pytest.raises(anthropic.BadRequestError):
        demo.messages.create(model="default", max_tokens=1, messages=[])


def test_models_are_listed(demo: anthropic.Anthropic) -> None:
    assert [model.id for model in demo.models.list()] == ["default", "answers", "demo"]
