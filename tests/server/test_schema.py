"""The OpenAPI document is what the server does: requests made from it find no mistake of ours."""

import contextlib
from collections.abc import Iterator
from itertools import islice
from typing import Any

import httpx
import jsonschema
import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from hypothesis.errors import Unsatisfiable
from schemathesis import GenerationMode
from schemathesis.generation.case import Case

from tests.fakes.http import fake_server
from tests.fakes.openai import answering
from tests.fakes.threads import in_thread
from tests.server.conftest import serve

# Endless by design, or of an Ollama that is not there.
LEFT_OUT = {"/admin/live", "/"}
_PARTS = 6


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    config = tmp_path_factory.mktemp("schema") / "c.yaml"
    with in_thread(fake_server(answering)) as fake:
        config.write_text(f"llm: {{providers: [{{type: openai, name: able, model: m, endpoint: '{fake.url}'}}]}}\n")
        with serve(config) as served:
            yield served.url.removesuffix("/v1")


@pytest.fixture(scope="module")
def document(root: str) -> dict[str, Any]:
    told: dict[str, Any] = httpx.get(root + "/openapi.json").json()
    return told


def test_the_document_has_every_path_once_and_each_body_a_schema(document: dict[str, Any]) -> None:
    operations = [one for path in document["paths"].values() for one in path.values()]
    names = [one["operationId"] for one in operations]
    assert len(names) == len(set(names))
    assert {"/v1/chat/completions", "/api/chat", "/v1/messages", "/admin/state", "/healthz"} <= set(document["paths"])
    for schema in document["components"]["schemas"].values():
        jsonschema.Draft202012Validator.check_schema(schema)


@pytest.mark.parametrize("part", range(_PARTS))
def test_requests_made_from_the_document_find_no_mistake_of_ours(
    root: str, document: dict[str, Any], part: int
) -> None:
    """Right ones and wrong ones: an answer is 2xx or a refusal, never a 5xx, and always JSON where it says so."""
    schema = schemathesis.openapi.from_dict(document)
    schema.config.update(base_url=root)
    asked = 0
    with httpx.Client(timeout=20) as client:
        for found in islice(schema.get_all_operations(), part, None, _PARTS):
            operation = found.ok()
            if operation.path in LEFT_OUT or operation.path.startswith("/static/"):
                continue
            for mode in GenerationMode:
                asked += _probe(client, root, operation, mode, _refusal(document, operation))
    assert asked > 200 / _PARTS


def _refusal(document: dict[str, Any], operation: Any) -> dict[str, Any]:
    """The schema that the document promises for a refusal."""
    told = document["paths"][operation.path][operation.method.lower()]["responses"]["4XX"]
    name = told["content"]["application/json"]["schema"]["$ref"].rpartition("/")[2]
    found: dict[str, Any] = document["components"]["schemas"][name]
    return found


def _probe(client: httpx.Client, root: str, operation: Any, mode: GenerationMode, refusal: dict[str, Any]) -> int:
    count = 0

    @settings(
        max_examples=15,
        deadline=None,
        database=None,
        phases=[Phase.generate],
        derandomize=True,
        suppress_health_check=list(HealthCheck),
    )
    @given(st.data())
    def probe(data: st.DataObject) -> None:
        nonlocal count
        case: Case = data.draw(operation.as_strategy(generation_mode=mode))
        sent = case.as_transport_kwargs(base_url=root)
        body = sent.get("json")
        if isinstance(body, dict) and mode is GenerationMode.POSITIVE:  # go beyond "there is no such model"
            body |= {"model": "able"} if "model" in body else {}
            body |= {"messages": [{"role": "user", "content": "x"}]} if body.get("messages") == [] else {}
        answer = client.request(
            sent["method"], sent["url"], json=sent.get("json"), content=sent.get("data"), params=sent.get("params")
        )
        count += 1
        assert answer.status_code < 500, (operation.label, sent, answer.text)
        if answer.status_code >= 400:
            jsonschema.validate(answer.json(), refusal)

    with contextlib.suppress(Unsatisfiable):  # where nothing is sent, nothing wrong can be
        probe()
    return count


def test_the_document_tells_of_streams_headers_and_what_is_said_beside_an_answer(
    root: str, document: dict[str, Any]
) -> None:
    body = {"model": "able", "max_tokens": 9, "messages": [{"role": "user", "content": "hello"}]}
    for path in ("/v1/chat/completions", "/v1/messages", "/api/chat"):
        told = document["paths"][path]["post"]["responses"]
        whole = httpx.post(root + path, json={**body, "stream": False})
        assert set(told["200"]["headers"]) <= set(whole.headers)
        extension = document["components"]["schemas"]["Told"]["properties"]
        assert set(whole.json()["roundhouse"]) <= set(extension)
        streamed = httpx.post(root + path, json={**body, "stream": True})
        assert streamed.headers["content-type"].partition(";")[0] in told["200"]["content"]
        wrong = httpx.post(root + path, json={**body, "model": "nobody"})
        name = told["4XX"]["content"]["application/json"]["schema"]["$ref"].rpartition("/")[2]
        jsonschema.validate(wrong.json(), document["components"]["schemas"][name])
