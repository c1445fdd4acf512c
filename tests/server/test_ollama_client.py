"""The official Ollama client works over any backend."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import ollama
import pytest

from tests.conftest import VARO, WHO, rag_query
from tests.fakes.http import FakeServer
from tests.fakes.ollama import fake_ollama
from tests.fakes.threads import in_thread
from tests.server.conftest import Served, serve

MESSAGES = [{"role": "user", "content": rag_query(VARO, WHO)}]


@pytest.fixture
def demo(served: Served) -> Iterator[ollama.Client]:
    client = ollama.Client(host=served.url.removesuffix("/v1"))
    yield client
    client._client.close()


@pytest.fixture
def client(able: tuple[Served, FakeServer]) -> Iterator[ollama.Client]:
    client = ollama.Client(host=able[0].url.removesuffix("/v1"))
    yield client
    client._client.close()


def test_a_chat_whole_and_streamed(demo: ollama.Client) -> None:
    whole = demo.chat(model="default:latest", messages=MESSAGES)
    assert whole.message.content == VARO
    assert (whole.done, whole.done_reason) == (True, "stop")
    assert whole.eval_count
    assert whole.total_duration
    assert whole.total_duration > (whole.eval_duration or 0) > 0
    lines = list(demo.chat(model="default", messages=MESSAGES, stream=True))
    assert "".join(line.message.content or "" for line in lines) == VARO
    assert [line.done for line in lines][-1] is True
    assert len(lines) > 3


def test_generate_with_and_without_the_template(demo: ollama.Client) -> None:
    assert demo.generate(model="default", prompt=MESSAGES[0]["content"]).response == VARO
    raw = demo.generate(model="default", prompt="The lighthouse of", raw=True, options={"num_predict": 4})
    assert raw.done_reason in ("length", "stop")
    assert 1 <= (raw.eval_count or 0) <= 4
    pieces = demo.generate(model="default", prompt=MESSAGES[0]["content"], system="Be brief.", stream=True)
    assert VARO.split()[0] in "".join(piece.response for piece in pieces)


def test_options_are_sampling(demo: ollama.Client) -> None:
    short = demo.chat(model="default", messages=MESSAGES, options={"num_predict": 3, "temperature": 0, "seed": 1})
    assert (short.done_reason, short.eval_count) == ("length", 3)
    stopped = demo.chat(model="default", messages=MESSAGES, options={"stop": [" in "]})
    assert stopped.message.content == VARO.partition(" in ")[0]


def test_what_a_request_may_not_decide_is_said(served: Served) -> None:
    body: dict[str, Any] = {"model": "default", "messages": MESSAGES, "stream": False, "keep_alive": "5m"}
    told = httpx.post(
        served.url.removesuffix("/v1") + "/api/chat", json={**body, "options": {"num_ctx": 99}}, timeout=30
    ).json()
    warnings = told["roundhouse"]["warnings"]
    assert any("num_ctx" in warning for warning in warnings)
    assert any("keep_alive" in warning for warning in warnings)


def test_an_empty_request_loads(demo: ollama.Client) -> None:
    assert demo.generate(model="default", prompt="").done_reason == "load"
    assert [model.model for model in demo.ps().models] == ["demo"]


def test_formats_and_schemas(demo: ollama.Client) -> None:
    schema = {"type": "object", "properties": {"n": {"type": "integer", "maximum": 9}}, "required": ["n"]}
    told = demo.chat(model="default", messages=MESSAGES, format=schema)
    assert (told.message.content or "").startswith("{")


def test_models_are_listed_and_shown(demo: ollama.Client) -> None:
    names = {model.model: model for model in demo.list().models}
    assert set(names) == {"default", "answers", "demo"}
    details = names["demo"].details
    assert details is not None
    assert (details.format, details.family) == ("gguf", "llama")
    shown = demo.show("demo")
    assert shown.capabilities == ["completion"]  # its template has no place for tools
    assert shown.modelinfo is not None
    assert shown.modelinfo["llama.context_length"] > 0
    assert 4e6 < shown.modelinfo["general.parameter_count"] < 7e6


def test_where_a_model_lies_is_not_told(tmp_path: Path) -> None:
    config = tmp_path / "c.yaml"
    config.write_text("llm: {providers: [{type: llamacpp, model: /srv/models/of/ann/mistral.gguf, name: m}]}\n")
    with serve(config) as served:
        root = served.url.removesuffix("/v1")
        for told in (httpx.post(root + "/api/show", json={"model": "m"}), httpx.get(root + "/api/tags")):
            assert "mistral.gguf" in told.text
            assert "/srv/models" not in told.text


def test_tools_and_thinking_and_images(client: ollama.Client) -> None:
    tool = {"type": "function", "function": {"name": "weather", "parameters": {"type": "object", "properties": {}}}}
    for stream in (False, True):
        answer = client.chat(
            model="default", messages=[{"role": "user", "content": "hello"}], tools=[tool], stream=stream
        )
        lines = list(answer) if stream else [answer]
        calls = [call for line in lines for call in (line.message.tool_calls or ())]
        assert [(call.function.name, dict(call.function.arguments)) for call in calls] == [
            ("weather", {"city": "Varo"})
        ]
    thought = client.chat(model="default", messages=[{"role": "user", "content": "think"}], think=True)
    assert thought.message.thinking == "hm"
    seen = client.chat(model="default", messages=[{"role": "user", "content": "?", "images": ["iVBORw0KGgo="]}])
    assert seen.message.content == "You said: 1 image."


def test_embeddings_new_and_old(client: ollama.Client) -> None:
    assert client.embed(model="default", input=["a", "bcd"]).embeddings == [[1.0, 3.0, 4.0], [3.0, 3.0, 4.0]]
    assert list(client.embeddings(model="default", prompt="a").embedding) == [1.0, 3.0, 4.0]


def test_errors_are_ollamas(demo: ollama.Client) -> None:
    with pytest.raises(ollama.ResponseError) as missing:
        demo.chat(model="nobody", messages=MESSAGES)
    assert missing.value.status_code == 404
    assert "nobody" in missing.value.error
    with pytest.raises(ollama.ResponseError) as bad:
        demo.chat(model="default", messages=MESSAGES, options={"temperature": 9})
    assert bad.value.status_code == 400
    with pytest.raises(ollama.ResponseError) as no_ollama:
        demo.pull("demo")
    assert "not run by an Ollama" in no_ollama.value.error


def test_an_attached_ollama_pulls_and_deletes(tmp_path: Path) -> None:
    with in_thread(fake_ollama(registry=("toy:latest",))) as fake:
        config = tmp_path / "c.yaml"
        config.write_text(f"llm: {{providers: [{{type: ollama, model: 'toy:latest', endpoint: '{fake.url}'}}]}}")
        with serve(config) as served:
            client = ollama.Client(host=served.url.removesuffix("/v1"))
            assert [step.status for step in client.pull("toy:latest", stream=True)][-1] == "success"
            assert fake.models == ["toy:latest"]
            assert client.pull("toy:latest", stream=False).status == "success"
            assert client.delete("toy:latest").status == "success"
            assert "toy:latest" not in fake.models[1:]
            client._client.close()


def test_programs_made_for_ollama_find_it(served: Served) -> None:
    root = served.url.removesuffix("/v1")
    assert httpx.get(root).text == "Ollama is running"
    assert httpx.head(root).status_code == 200
    told = httpx.get(root + "/api/version").json()
    assert tuple(map(int, told["version"].split("."))) >= (0, 6, 4)  # what editors ask for at least
    assert told["roundhouse"]
    assert httpx.head(root + "/api/tags").status_code == 200
