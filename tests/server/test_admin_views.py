"""What the page's views of prompts and experiments are fed with."""

from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from tests.conftest import VARO, WHO
from tests.server.conftest import Served, serve

CONFIG = """\
llm:
  providers: [{type: llamacpp, model: demo, name: demo}]
  prompt_templates: {short: "Context: {context}\\n\\nQuestion: {question}"}
experiments:
  wording:
    prompt: rag_query
    arms: {current: {}, short: {prompt: short}}
    metric: correct
"""


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    folder = tmp_path_factory.mktemp("views")
    (folder / "c.yaml").write_text(CONFIG)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_STATE_HOME", str(folder))
        with serve(folder / "c.yaml") as served:
            yield _root(served)


def _root(served: Served) -> str:
    return served.url.removesuffix("/v1")


def test_experiments_are_listed_before_they_begin_and_have_no_course_yet(root: str) -> None:
    (told,) = httpx.get(root + "/admin/experiments").json()["experiments"]
    assert (told["name"], told["state"], told["arms"]) == ("wording", "not started", ["current", "short"])
    assert httpx.get(root + "/admin/experiments/wording").json() == {"name": "wording", "course": []}
    refused = httpx.get(root + "/admin/experiments/wordng")
    assert (refused.status_code, refused.json()["error"]["code"]) == (400, "invalid_request")


def test_prompts_are_listed_with_variables_wordings_and_labels(root: str) -> None:
    told: dict[str, Any] = {one["name"]: one for one in httpx.get(root + "/admin/prompts").json()["prompts"]}
    assert told["rag_query"]["variants"].keys() >= {"default", "mistral", "demo"}
    context, question = told["rag_query"]["variables"]
    assert (context["name"], context["required"], context["cut"]) == ("context", True, "paragraphs")
    assert question["name"] == "question"
    assert told["short"]["labels"] == {}


def test_what_a_model_would_read_is_shown_with_its_tokens(root: str) -> None:
    body = {"prompt": "rag_query", "variables": {"context": f"{VARO}</s>", "question": WHO}, "model": "demo"}
    told = httpx.post(root + "/admin/prompts/read", json=body).json()
    assert (told["target"], told["variant"]) == ("demo", "demo")
    assert VARO in told["text"]
    assert told["tokens"] > 20
    assert told["notes"] == ["special tokens in context were broken up"]
    for wrong, said in (({"prompt": "rag_qery"}, "rag_query"), ({**body, "variables": {"contxt": "x"}}, "contxt")):
        refused = httpx.post(root + "/admin/prompts/read", json=wrong)
        assert refused.status_code == 400
        assert said in refused.json()["error"]["message"]
