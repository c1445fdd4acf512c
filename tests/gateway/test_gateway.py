"""The house behind one door: what answers by default, what fits, what is told."""

import asyncio
from pathlib import Path

import pytest

from roundhouse.config import load_mapping, load_text
from roundhouse.config.settings import Settings
from roundhouse.core import errors
from roundhouse.core.chat import ChatRequest, Sampling
from roundhouse.engines.lifecycle import Engine, EngineState
from roundhouse.gateway import Gateway
from roundhouse.gateway.checks import check_targets
from roundhouse.gateway.defaults import with_default_route
from roundhouse.gateway.laboratory import Laboratory
from roundhouse.prompts.prompt import Prepared
from tests.conftest import VARO, WHO
from tests.fakes.http import Exchange, fake_server

DEMO = "llm: {providers: [{type: llamacpp, model: demo}]}"


async def test_without_a_configuration_ollama_with_mistral_answers_if_it_is_there() -> None:
    async def script(exchange: Exchange) -> None:
        await exchange.whole({"models": [{"name": "mistral:7b"}]})

    async with fake_server(script) as ollama:
        settings = await with_default_route(Settings(), ollama_url=ollama.url)
    assert (settings.targets[0].type, settings.routes) == ("ollama", {"default": ("ollama",)})


@pytest.mark.parametrize("models", [[], [{"name": "phi3:mini"}]])
async def test_else_the_demo_model_answers_and_says_so(models: list[dict[str, str]]) -> None:
    async def script(exchange: Exchange) -> None:
        await exchange.whole({"models": models})

    async with fake_server(script) as ollama:
        settings = await with_default_route(Settings(), ollama_url=ollama.url)
    assert settings.targets[0].model == "demo"
    assert "ollama pull mistral:7b" in Gateway(settings).notices[0]


async def test_a_configured_target_is_never_replaced() -> None:
    settings = load_text(DEMO)
    assert await with_default_route(settings) is settings


async def test_a_long_document_is_cut_to_the_window_and_the_cut_is_told() -> None:
    paragraphs = [f"Nothing of interest happened in the year {1500 + n}." for n in range(200)]
    paragraphs[150] = VARO
    async with Gateway(load_text(DEMO)) as gateway:
        request, cut = await gateway.question(WHO, "\n\n".join(paragraphs), prompt="rag_query")
        assert VARO in _text(request)
        assert cut.startswith("of 200 paragraphs, the ")
        reported = await gateway.generate(request)
    assert reported.answer.usage.prompt_tokens <= 1024 - 256


async def test_a_document_that_fits_is_not_touched() -> None:
    async with Gateway(load_text(DEMO)) as gateway:
        request, cut = await gateway.question(WHO, VARO, prompt="rag_query")
    assert cut == ""
    assert _text(request).startswith(f"Context: {VARO}\n\nQuestion: {WHO}\n\nAnswer based")


async def test_a_window_too_small_for_anything_is_said() -> None:
    async with Gateway(load_text(DEMO.replace("demo}", "demo, n_ctx: 8}"))) as gateway:
        with pytest.raises(errors.ContextTooLong, match="not even one paragraph"):
            await gateway.question(WHO, "word " * 5000, prompt="rag_query")


async def test_prompts_of_the_configuration_win_and_unknown_ones_are_named() -> None:
    prompts = '{rag_query: "Q {question} C {context}", odd: "{x}"}'
    text = f"llm: {{providers: [{{type: llamacpp, model: demo}}], prompt_templates: {prompts}}}"
    async with Gateway(load_text(text)) as gateway:
        request, _ = await gateway.question("q?", "d", prompt="rag_query")
        assert _text(request) == "Q q? C d"
        with pytest.raises(errors.TemplateError, match='wants "x"'):
            await gateway.question("q?", "d", prompt="odd")
        with pytest.raises(errors.TemplateError, match='there is no prompt "rag"'):
            await gateway.question("q?", "d", prompt="rag")
        with pytest.raises(errors.InvalidRequest, match="the question is empty"):
            await gateway.question(" ", "d", prompt="rag_query")


def test_a_bad_template_in_the_configuration_is_found_at_once() -> None:
    with pytest.raises(errors.TemplateError, match='template "p", line 1'):
        Gateway(load_text('llm: {providers: [{type: openai, endpoint: "http://x"}], prompt_templates: {p: "{a.b}"}}'))


async def test_no_memory_for_the_model_is_said_with_what_would_help() -> None:
    text = DEMO.replace("demo}", "demo, n_ctx: 10000000, n_parallel: 64}")
    async with Gateway(load_text(text)) as gateway:
        with pytest.raises(errors.NoFit, match="lower n_ctx or n_parallel"):
            await gateway.generate(ChatRequest.of("q"))


async def test_a_model_file_is_found_beside_the_configuration(tmp_path: Path, demo_gguf: Path) -> None:
    (tmp_path / "m.gguf").symlink_to(demo_gguf)
    config = tmp_path / "c.yaml"
    settings = load_text("llm: {providers: [{type: llamacpp, model: m.gguf}]}", str(config))
    assert [check.ok for check in await check_targets(settings)] == [True]


async def test_checks_tell_what_would_serve_without_loading_anything() -> None:
    text = """
        llm:
          providers:
            - {type: llamacpp, model: demo}
            - {type: llamacpp, model: /no/such.gguf, name: gone}
            - {type: openai, endpoint: "http://127.0.0.1:1", name: dead}
    """
    checks = {check.name: check for check in await check_targets(load_text(text))}
    assert {name: check.ok for name, check in checks.items()} == {"llamacpp": True, "gone": False, "dead": False}
    assert "there is no model file" in checks["gone"].detail
    assert "nothing listens there" in checks["dead"].detail


async def test_what_has_no_effect_on_a_backend_of_someone_else_is_said() -> None:
    settings = load_text(
        "llm: {providers: [{type: openai, endpoint: 'http://x', ttl: 5m, replicas: {min: 1, max: 3}}]}"
    )
    assert Gateway(settings).notices == ['target "openai" is run by someone else: replicas, ttl has no effect']


async def test_slots_of_a_backend_are_as_configured_and_without_effect_on_one_of_ours(demo_gguf: Path) -> None:
    entries = f"""
        llm:
          providers:
            - {{type: openai, endpoint: "http://x", slots: 3}}
            - {{type: llamacpp, model: {demo_gguf}, name: own, slots: 3, n_parallel: 2}}
    """
    async with Gateway(load_text(entries)) as gateway:
        assert [said for said in gateway.notices if "slots" in said] == [
            'target "own" is started by us: set n_parallel; slots has no effect'
        ]
        slots = {one["target"]: one["slots"] for one in gateway.state()["replicas"]}
    assert slots == {"openai": 3, "own": 2}


async def test_a_request_without_messages_is_the_callers_mistake() -> None:
    async with Gateway(load_text("llm: {providers: [{type: llamacpp, model: demo}]}")) as gateway:
        with pytest.raises(errors.InvalidRequest, match="there are no messages"):
            gateway.stream(ChatRequest(messages=()))


def _text(request: ChatRequest) -> str:
    assert isinstance(request.wording, Prepared)
    return request.wording.wording("mistral", "demo").text


async def test_a_prompt_is_worded_for_the_target_that_answers_and_said_in_the_report() -> None:
    text = """
        llm:
          providers: [{type: llamacpp, model: demo, family: gemma2}]
          prompt_templates: {p: {default: "D {context} {question}", gemma2: "Context: {context} Q: {question}"}}
    """
    async with Gateway(load_text(text)) as gateway:
        request = gateway.prompted("p", {"context": f"{VARO}<end_of_turn>", "question": WHO}, ChatRequest(()))
        reported = await gateway.generate(request)
    assert reported.report.variant == "gemma2"
    assert reported.report.prompt.startswith("p@")
    assert reported.report.warnings == ["special tokens in context were broken up"]


async def test_a_failover_to_another_family_is_worded_anew_and_said() -> None:
    text = """
        llm:
          providers:
            - {type: openai, endpoint: "http://127.0.0.1:1", name: dead, model: m, family: llama3}
            - {type: llamacpp, model: demo}
    """
    async with Gateway(load_text(text)) as gateway:
        request = gateway.prompted("rag_query", {"context": VARO, "question": WHO}, ChatRequest(()))
        reported = await gateway.generate(request)
    assert reported.answer.text == VARO
    assert reported.report.variant == "demo"
    assert 'the prompt is worded for "demo" instead of "llama3"' in reported.report.warnings


async def test_a_value_is_cut_from_the_side_that_the_prompt_says() -> None:
    async with Gateway(load_text(DEMO)) as gateway:
        long = "word " * 5000 + "end"
        request = gateway.prompted("summarization", {"text": long}, ChatRequest(()))
        fitted, notes = await gateway.within_window(request)
        assert await gateway.within_window(fitted) == (fitted, ())
    assert "word word\n\n# Task" in _text(fitted)
    assert "characters were cut from the end" in notes[0]


async def test_a_house_that_could_not_be_opened_or_closed_in_order_leaves_nothing_running(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """However far it came: the engine that is loaded ahead is on its way when the last part fails."""
    entry = {"type": "llamacpp", "name": "a", "model": "demo", "n_ctx": 256, "preload": True}
    gateway = Gateway(load_mapping({"llm": {"providers": [entry]}}))
    engines: list[Engine] = []

    async def broken(laboratory: Laboratory, *_: object) -> None:
        (replica,) = gateway._open_manager.targets["a"].replicas
        engines.append(replica.engine)
        while replica.engine.pid is None and replica.engine.state is not EngineState.READY:
            await asyncio.sleep(0.01)
        raise OSError("no")

    for what in ("open", "aclose"):
        with monkeypatch.context() as patch, pytest.raises(OSError, match="no"):
            patch.setattr(Laboratory, what, broken)
            async with gateway:
                pass
        assert [engine.pid for engine in engines] == [None] * len(engines)
        assert asyncio.all_tasks() == {asyncio.current_task()}
    async with gateway:
        assert (await gateway.generate(ChatRequest.of("Hello.", sampling=Sampling(max_tokens=3)))).answer.text
