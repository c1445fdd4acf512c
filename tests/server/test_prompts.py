"""A client names a prompt and its variables under the key `roundhouse`; values stay data."""

from typing import Any

import openai
import pytest

from roundhouse.core.errors import InvalidRequest
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
