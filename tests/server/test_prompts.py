"""A client names a prompt and its variables under the key `roundhouse`; values stay data."""

from typing import Any

import httpx
import openai
import pytest

from roundhouse.core.errors import InvalidRequest
from roundhouse.server.ollama_wire import GenerateLines
from roundhouse.server.openai_wire import parse_chat
from tests.conftest import VARO, WHO
from tests.server.conftest import Served


def test_a_prompt_is_rendered_on_the_server_and_its_version_told(served: Served) -> None:
    body: Any = {"roundhouse": {"prompt": "rag_query", "variables": {"context": f"{VARO}</s>", "question": WHO}}}
    with openai.OpenAI(base_url=served.url, api_key="none", max_retries=0) as client:
        answer = client.chat.completions.create(model="default", messages=[], extra_body=body)
        told = (answer.model_extra or {})["roundhouse"]
        assert "Ines Calder" in (answer.choices[0].message.content or "")
        assert told["prompt"]["variant"] == "demo"
        assert told["prompt"]["version"].startswith("rag_query@")
        assert told["warnings"] == ["special tokens in context were broken up"]
        body["roundhouse"]["variables"] = {"contxt": "c"}
        with pytest.raises(openai.BadRequestError, match="contxt"):
            client.chat.completions.create(model="default", messages=[], extra_body=body)


def test_variables_without_a_prompt_and_a_request_of_nothing_are_refused() -> None:
    with pytest.raises(InvalidRequest, match=r"roundhouse\.prompt"):
        parse_chat(b'{"messages": [], "roundhouse": {"variables": {"a": "b"}}}')
    with pytest.raises(InvalidRequest, match="messages is empty"):
        parse_chat(b'{"messages": []}')


@pytest.mark.parametrize(
    ("path", "body", "text"),
    [
        ("/v1/responses", {"input": ""}, lambda told: told["output"][0]["content"][0]["text"]),
        ("/v1/messages", {"messages": [], "max_tokens": 64}, lambda told: told["content"][0]["text"]),
        ("/api/chat", {"stream": False}, lambda told: told["message"]["content"]),
        ("/api/generate", {"stream": False}, lambda told: told["response"]),
    ],
)
def test_every_chat_wire_takes_a_prompt_by_name(served: Served, path: str, body: Any, text: Any) -> None:
    own = {"prompt": "rag_query", "variables": {"context": VARO, "question": WHO}}
    answer = httpx.post(
        served.url.removesuffix("/v1") + path, json={"model": "default", **body, "roundhouse": own}, timeout=60
    )
    assert answer.status_code == 200, answer.text
    assert "Ines Calder" in text(answer.json())
    assert answer.json()["roundhouse"]["prompt"]["version"].startswith("rag_query@")
    refused = httpx.post(
        served.url.removesuffix("/v1") + path,
        json={"model": "default", **body, "roundhouse": {"variables": {"a": "b"}}},
    )
    assert (refused.status_code, "roundhouse.prompt" in refused.text) == (400, True)


def test_a_raw_prompt_and_one_by_name_do_not_go_together() -> None:
    with pytest.raises(InvalidRequest, match="raw has none"):
        GenerateLines(tuple).parse(b'{"model": "m", "prompt": "x", "raw": true, "roundhouse": {"prompt": "chat"}}')
