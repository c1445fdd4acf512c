"""langchain, llama-index and litellm work against the server, streaming and not. Run by `make test-clients`."""

from collections.abc import Iterator
from typing import Any, Literal

import pytest
from pydantic import BaseModel

from tests.conftest import VARO, WHO, rag_query
from tests.fakes.http import fake_server
from tests.fakes.openai import answering
from tests.fakes.threads import in_thread
from tests.server.conftest import Served, serve

for name in ("langchain_openai", "langchain_ollama", "llama_index.llms.openai_like", "litellm"):
    pytest.importorskip(name, reason="the frameworks are in an environment of their own: make test-clients")

QUESTION = rag_query(VARO, WHO)
pytestmark = pytest.mark.filterwarnings("default")


class Kind(BaseModel):
    """What the demo model can say in JSON: the schema leaves it no room for text of its own."""

    kind: Literal["building", "person"]
    tall: bool


def weather(city: str) -> str:
    """The weather of a city."""
    return f"sunny in {city}"


TOOL: Any = {
    "type": "function",
    "function": {"name": "weather", "parameters": {"type": "object", "properties": {"city": {"type": "string"}}}},
}


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """The demo model, its vectors, and a backend `able` that calls tools, which the demo model cannot."""
    config = tmp_path_factory.mktemp("clients") / "c.yaml"
    demo = "{type: llamacpp, model: demo"
    with in_thread(fake_server(answering)) as fake:
        able = f"{{type: openai, name: able, model: m, endpoint: '{fake.url}'}}"
        providers = f"[{demo}, name: demo}}, {demo}, name: vectors, embeddings: true}}, {able}]"
        config.write_text(f"llm: {{providers: {providers}, fallback_order: [demo]}}\n")
        with serve(config) as server:
            yield server


def test_langchain_openai(served: Served) -> None:
    from langchain_openai import ChatOpenAI

    for responses in (False, True):
        model = ChatOpenAI(model="default", base_url=served.url, api_key="none", use_responses_api=responses)
        assert model.invoke(QUESTION).text == VARO
        assert "".join(chunk.text for chunk in model.stream(QUESTION)) == VARO
    told = model.invoke(QUESTION).usage_metadata
    assert told is not None
    assert told["output_tokens"] > 0


def test_langchain_ollama(served: Served) -> None:
    from langchain_ollama import ChatOllama

    model = ChatOllama(model="default", base_url=served.url.removesuffix("/v1"))
    assert model.invoke(QUESTION).text == VARO
    assert "".join(chunk.text for chunk in model.stream(QUESTION)) == VARO


def test_llama_index(served: Served) -> None:
    from llama_index.core.llms import ChatMessage
    from llama_index.llms.openai_like import OpenAILike

    model = OpenAILike(model="default", api_base=served.url, api_key="none", is_chat_model=True)
    assert model.chat([ChatMessage(role="user", content=QUESTION)]).message.content == VARO
    assert "".join(chunk.delta or "" for chunk in model.stream_complete(QUESTION)) == VARO


@pytest.mark.parametrize("kind", ["openai/default", "ollama_chat/default", "anthropic/default"])
def test_litellm(served: Served, kind: str) -> None:
    import litellm

    root = served.url.removesuffix("/v1")
    base = served.url if kind.startswith("openai") else root
    messages = [{"role": "user", "content": QUESTION}]
    asked = {"model": kind, "messages": messages, "api_base": base, "api_key": "none", "max_tokens": 100}
    assert litellm.completion(**asked).choices[0].message.content == VARO
    pieces = litellm.completion(**asked, stream=True)
    assert "".join(piece.choices[0].delta.content or "" for piece in pieces) == VARO


async def test_langchain_openai_asynchronous_many_and_logprobs(served: Served) -> None:
    from langchain_openai import ChatOpenAI

    model = ChatOpenAI(model="default", base_url=served.url, api_key="none")
    assert (await model.ainvoke(QUESTION)).text == VARO
    assert "".join([chunk.text async for chunk in model.astream(QUESTION)]) == VARO
    assert [answer.text for answer in await model.abatch([QUESTION] * 3)] == [VARO] * 3
    told = (await model.bind(logprobs=True, top_logprobs=2).ainvoke(QUESTION)).response_metadata["logprobs"]
    assert len(told["content"][0]["top_logprobs"]) == 2


def test_langchain_openai_structured_output(served: Served) -> None:
    from langchain_openai import ChatOpenAI

    for responses in (False, True):
        model = ChatOpenAI(model="default", base_url=served.url, api_key="none", use_responses_api=responses)
        assert isinstance(model.with_structured_output(Kind).invoke(QUESTION), Kind)


def test_langchain_openai_tools_in_two_turns(served: Served) -> None:
    from langchain_core.messages import HumanMessage, ToolMessage
    from langchain_openai import ChatOpenAI

    for responses in (False, True):
        model = ChatOpenAI(model="able", base_url=served.url, api_key="none", use_responses_api=responses)
        bound = model.bind_tools([weather])
        called = bound.invoke("What is the weather?")
        (call,) = called.tool_calls
        assert (call["name"], call["args"]) == ("weather", {"city": "Varo"})
        turns = [HumanMessage("What is the weather?"), called, ToolMessage("sunny", tool_call_id=call["id"])]
        assert bound.invoke(turns).text == "You said: sunny."
        gathered = None
        for chunk in bound.stream("What is the weather?"):
            gathered = chunk if gathered is None else gathered + chunk
        assert gathered is not None
        assert [one["args"] for one in gathered.tool_calls] == [{"city": "Varo"}]


def test_langchain_openai_embeddings_and_completions(served: Served) -> None:
    from langchain_openai import OpenAI, OpenAIEmbeddings

    vectors = OpenAIEmbeddings(
        model="vectors", base_url=served.url, api_key="none", check_embedding_ctx_length=False
    )  # its own default sends token ids of OpenAI's tokenizer, which mean nothing to another model
    assert [len(row) for row in vectors.embed_documents(["a", "b"])] == [256, 256]
    model = OpenAI(model="default", base_url=served.url, api_key="none", max_tokens=9)
    assert model.invoke("The lighthouse of Varo was")
    assert "".join(model.stream("The lighthouse of Varo was"))


async def test_langchain_ollama_tools_schemas_embeddings_and_generate(served: Served) -> None:
    from langchain_ollama import ChatOllama, OllamaEmbeddings, OllamaLLM

    root = served.url.removesuffix("/v1")
    model = ChatOllama(
        model="default", base_url=root, validate_model_on_init=True, num_ctx=512, keep_alive="5m", seed=1
    )
    assert (await model.ainvoke(QUESTION)).text == VARO
    assert isinstance(model.with_structured_output(Kind).invoke(QUESTION), Kind)
    called = ChatOllama(model="able", base_url=root).bind_tools([weather]).invoke("What is the weather?")
    assert called.tool_calls[0]["args"] == {"city": "Varo"}
    thought = ChatOllama(model="able", base_url=root, reasoning=True).invoke("think")
    assert thought.additional_kwargs["reasoning_content"] == "hm"
    assert [len(row) for row in OllamaEmbeddings(model="vectors", base_url=root).embed_documents(["a", "b"])] == [
        256
    ] * 2
    plain = OllamaLLM(model="default", base_url=root)
    assert plain.invoke(QUESTION) == "".join(plain.stream(QUESTION)) == VARO


async def test_llama_index_asynchronous_structured_and_with_tools(served: Served) -> None:
    from llama_index.core.llms import ChatMessage
    from llama_index.core.tools import FunctionTool
    from llama_index.llms.openai_like import OpenAILike

    to = {"api_base": served.url, "api_key": "none", "is_chat_model": True}
    model = OpenAILike(model="default", **to)
    assert model.complete(QUESTION).text == VARO
    assert (await model.achat([ChatMessage(role="user", content=QUESTION)])).message.content == VARO
    told = (
        OpenAILike(model="default", should_use_structured_outputs=True, **to).as_structured_llm(Kind).complete(QUESTION)
    )
    assert isinstance(told.raw, Kind)
    able = OpenAILike(model="able", is_function_calling_model=True, **to)
    called = able.chat_with_tools([FunctionTool.from_defaults(weather)], user_msg="What is the weather?")
    assert [call.tool_kwargs for call in able.get_tool_calls_from_response(called)] == [{"city": "Varo"}]


@pytest.mark.parametrize("kind", ["openai/able", "ollama_chat/able", "anthropic/able"])
def test_litellm_tools(served: Served, kind: str) -> None:
    import litellm

    base = served.url if kind.startswith("openai") else served.url.removesuffix("/v1")
    messages = [{"role": "user", "content": "What is the weather?"}]
    told = litellm.completion(model=kind, messages=messages, tools=[TOOL], max_tokens=50, api_base=base, api_key="none")
    (call,) = told.choices[0].message.tool_calls
    assert (call.function.name, call.function.arguments) == ("weather", '{"city": "Varo"}')


async def test_litellm_asynchronous_embeddings_responses_and_errors(served: Served) -> None:
    import litellm

    root, to = served.url.removesuffix("/v1"), {"api_base": served.url, "api_key": "none"}
    messages = [{"role": "user", "content": QUESTION}]
    answer = await litellm.acompletion(model="openai/default", messages=messages, **to)
    assert answer.choices[0].message.content == VARO
    assert len(litellm.embedding(model="openai/vectors", input=["a", "b"], **to).data) == 2
    assert len(litellm.embedding(model="ollama/vectors", input=["a", "b"], api_base=root).data) == 2
    assert (
        litellm.completion(model="ollama/default", messages=messages, api_base=root).choices[0].message.content == VARO
    )
    assert litellm.responses(model="openai/default", input=QUESTION, **to).output[-1].content[0].text == VARO
    told = litellm.completion(model="openai/default", messages=messages, response_format=Kind, **to)
    Kind.model_validate_json(told.choices[0].message.content)
    with pytest.raises(litellm.NotFoundError, match="there is no route or target"):
        litellm.completion(model="openai/nope", messages=messages, **to)


def test_langchain_openai_choices_stop_seed_and_usage_of_a_stream(served: Served) -> None:
    from langchain_core.messages import HumanMessage
    from langchain_openai import ChatOpenAI

    model = ChatOpenAI(model="default", base_url=served.url, api_key="none", seed=7, stream_usage=True)
    two = ChatOpenAI(model="default", base_url=served.url, api_key="none", n=2)
    several = two.generate([[HumanMessage(QUESTION)]])
    assert [one.text for one in several.generations[0]] == [VARO] * 2
    cut = model.invoke(QUESTION, stop=[" 1871"])
    assert cut.text == VARO.partition(" 1871")[0]
    assert cut.response_metadata["finish_reason"] == "stop"
    gathered = None
    for chunk in model.stream(QUESTION, logprobs=True):
        gathered = chunk if gathered is None else gathered + chunk
    assert gathered is not None
    assert gathered.usage_metadata["total_tokens"] > gathered.usage_metadata["output_tokens"] > 0
    assert "".join(one["token"] for one in gathered.response_metadata["logprobs"]["content"]).strip() == VARO


def test_langchain_openai_errors_are_those_of_its_client(served: Served) -> None:
    import openai
    from langchain_openai import ChatOpenAI

    with pytest.raises(openai.NotFoundError, match="there is no route or target"):
        ChatOpenAI(model="nope", base_url=served.url, api_key="none").invoke("x")
    with pytest.raises(openai.BadRequestError, match="context"):
        ChatOpenAI(model="default", base_url=served.url, api_key="none").invoke("word " * 3000)


def test_langchain_ollama_stop_seed_and_usage_of_a_stream(served: Served) -> None:
    from langchain_ollama import ChatOllama

    model = ChatOllama(model="default", base_url=served.url.removesuffix("/v1"), seed=7, stop=[" 1871"])
    gathered = None
    for chunk in model.stream(QUESTION):
        gathered = chunk if gathered is None else gathered + chunk
    assert gathered is not None
    assert gathered.text == VARO.partition(" 1871")[0]
    assert gathered.usage_metadata is not None
    assert gathered.usage_metadata["output_tokens"] > 0


async def test_llama_index_streams_asynchronously_with_stop_seed_logprobs_and_usage(served: Served) -> None:
    from llama_index.core.llms import ChatMessage
    from llama_index.llms.openai_like import OpenAILike

    to = {"model": "default", "api_base": served.url, "api_key": "none", "is_chat_model": True}
    asked = [ChatMessage(role="user", content=QUESTION)]
    model = OpenAILike(additional_kwargs={"seed": 7, "stop": [" 1871"]}, **to)
    assert "".join([piece.delta or "" async for piece in await model.astream_chat(asked)]) == VARO.partition(" 1871")[0]
    told = OpenAILike(logprobs=True, top_logprobs=2, **to).chat(asked)
    assert told.raw.usage.completion_tokens > 0
    assert len(told.raw.choices[0].logprobs.content) > 3


async def test_litellm_choices_stop_seed_logprobs_usage_and_streams_of_every_wire(served: Served) -> None:
    import litellm

    to = {"api_base": served.url, "api_key": "none"}
    root = served.url.removesuffix("/v1")
    asked: dict[str, Any] = {"messages": [{"role": "user", "content": QUESTION}], "seed": 7, "max_tokens": 100}
    several = litellm.completion(model="openai/default", n=2, logprobs=True, top_logprobs=2, **asked, **to)
    assert [one.message.content for one in several.choices] == [VARO] * 2
    assert len(several.choices[0].logprobs["content"]) > 3
    cut = litellm.completion(model="openai/default", stop=[" 1871"], **asked, **to)
    assert cut.choices[0].message.content == VARO.partition(" 1871")[0]
    for kind, base in (("openai/default", served.url), ("ollama_chat/default", root), ("anthropic/default", root)):
        pieces = await litellm.acompletion(
            model=kind, stream=True, stream_options={"include_usage": True}, api_base=base, api_key="none",
            messages=asked["messages"], max_tokens=100,
        )  # fmt: skip
        text, used = "", 0
        async for piece in pieces:
            text += (piece.choices[0].delta.content or "") if piece.choices else ""
            used = getattr(getattr(piece, "usage", None), "completion_tokens", 0) or used
        assert (text, used > 0) == (VARO, True), kind
    events = litellm.responses(model="openai/default", input=QUESTION, stream=True, **to)
    assert "".join(event.delta for event in events if event.type == "response.output_text.delta") == VARO
