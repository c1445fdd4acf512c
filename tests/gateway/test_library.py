"""The names applications use, blocking and async, over real engines."""

import subprocess
import sys
import textwrap
import time
from pathlib import Path

import psutil
import pytest

import roundhouse
from roundhouse.config import Settings
from roundhouse.core import errors
from roundhouse.experiments.design import Arm, Experiment
from roundhouse.experiments.store import Store
from roundhouse.gateway.keeping import experiments_place
from roundhouse.gateway.steering import begin
from tests.conftest import VARO, WHO, rag_query

QUESTION = rag_query(VARO, WHO)
DEAD = {"type": "ollama", "model": "mistral:7b", "endpoint": "http://127.0.0.1:1"}
DEMO = {"type": "llamacpp", "model": "demo"}


def test_a_provider_answers_streams_and_tells_its_health() -> None:
    provider = roundhouse.LlamaCppProvider("demo")
    try:
        assert provider.generate_answer(QUESTION) == VARO
        assert "".join(chunk.text for chunk in provider.stream(QUESTION)) == VARO
        answer = provider.generate(QUESTION)
        assert (answer.finish_reason, answer.usage.completion_tokens > 5) == ("stop", True)
        assert provider.health().ready
        assert provider.capabilities.streaming
    finally:
        provider.close()


async def test_the_async_forms_are_the_same() -> None:
    provider = roundhouse.LlamaCppProvider("demo")
    assert (await provider.agenerate(QUESTION)).text == VARO
    assert [chunk.finish_reason async for chunk in provider.astream(roundhouse.ChatRequest.of(QUESTION))][-1] == "stop"
    await provider.aclose()


async def test_a_blocking_call_inside_a_loop_says_what_to_use() -> None:
    with pytest.raises(RuntimeError, match="use the async form"):
        roundhouse.LlamaCppProvider("demo").generate_answer("x")


def test_leaving_a_stream_early_is_allowed() -> None:
    provider = roundhouse.LlamaCppProvider("demo")
    stream = provider.stream(QUESTION)
    assert next(stream).text
    stream.close()
    assert provider.generate_answer(QUESTION) == VARO
    provider.close()


def test_the_factory_knows_its_types() -> None:
    assert isinstance(
        roundhouse.LLMProviderFactory.create_provider("ollama", "mistral:7b", {}), roundhouse.OllamaProvider
    )
    with pytest.raises(ValueError, match="known are huggingface, llamacpp, ollama, openai, vllm"):
        roundhouse.LLMProviderFactory.create_provider("nope", "m", {})


def test_a_wrong_setting_is_said_with_the_near_one() -> None:
    with pytest.raises(errors.ConfigError, match="did you mean n_ctx"):
        roundhouse.LlamaCppProvider("demo", n_ctxx=5)


def test_failover_writes_nothing_to_the_terminal_of_an_application() -> None:
    config = {"llm": {"providers": [DEAD, DEMO]}}
    code = f"import roundhouse; print(roundhouse.LLMManager({config!r}).generate_answer({QUESTION!r}))"
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (ended.stdout, ended.stderr) == (VARO + "\n", "")


def test_the_manager_fails_over_in_silence() -> None:
    manager = roundhouse.LLMManager({"llm": {"providers": [DEAD, DEMO], "fallback_order": ["ollama", "llamacpp"]}})
    try:
        assert manager.generate_answer(QUESTION) == VARO
        assert "".join(chunk.text for chunk in manager.stream(QUESTION)) == VARO
    finally:
        manager.close()


@pytest.mark.parametrize("providers", [[DEAD], [DEAD, {**DEAD, "name": "b"}]])
def test_when_all_failed_a_runtime_error_lists_each_attempt(providers: list[dict[str, str]]) -> None:
    manager = roundhouse.LLMManager({"llm": {"providers": providers}})
    try:
        with pytest.raises(RuntimeError, match="nothing listens there") as caught:
            manager.generate_answer("q")
    finally:
        manager.close()
    assert isinstance(caught.value, roundhouse.AllProvidersFailed)
    assert [attempt.outcome for attempt in caught.value.attempts] == ["connect_failed"] * len(providers)


def test_a_manager_reads_a_file(tmp_path: Path) -> None:
    path = tmp_path / "c.yaml"
    path.write_text("llm: {providers: [{type: llamacpp, model: demo}]}")
    manager = roundhouse.LLMManager(path)
    assert manager.generate_answer(QUESTION) == VARO
    manager.close()


def test_an_unknown_route_is_the_callers_mistake() -> None:
    manager = roundhouse.LLMManager({"llm": {"providers": [DEMO]}})
    with pytest.raises(errors.ModelNotFound, match="did you mean llamacpp"):
        manager.generate_answer("q", model="lamacpp")
    manager.close()


def test_a_manager_that_is_dropped_gives_its_memory_back() -> None:
    manager = roundhouse.LLMManager({"llm": {"providers": [DEMO]}})
    manager.generate_answer(QUESTION)
    (child,) = psutil.Process().children()
    del manager
    child.wait(10)


def test_a_program_that_closes_nothing_ends_quietly_and_leaves_no_child() -> None:
    code = f"""
        import psutil, roundhouse
        provider = roundhouse.LlamaCppProvider("demo")
        print(provider.generate_answer({QUESTION!r}))
        print(*[p.pid for p in psutil.Process().children()])
    """
    ended = subprocess.run([sys.executable, "-W", "error", "-c", textwrap.dedent(code)], capture_output=True, text=True)
    answer, pid = ended.stdout.splitlines()
    assert (answer, ended.stderr) == (VARO, "")
    assert not psutil.pid_exists(int(pid))


def test_a_model_is_loaded_once_ahead_of_its_first_request_and_can_be_unloaded(demo_gguf: Path) -> None:
    manager = roundhouse.ModelResourceManager()
    provider = manager.load_model("llamacpp", str(demo_gguf), {"n_threads": 1, "n_ctx": 256})
    children = psutil.Process().children()
    assert len(children) == 1
    assert manager.load_model("llamacpp", str(demo_gguf)) is provider
    assert manager.loaded_models() == [("llamacpp", str(demo_gguf))]
    assert psutil.Process().children() == children
    assert manager.unload_model("llamacpp", str(demo_gguf))
    assert psutil.Process().children() == []
    assert not manager.unload_model("llamacpp", str(demo_gguf))
    with pytest.raises(errors.BadHeader):
        manager.load_model("llamacpp", "/no/such.gguf")
    assert manager.loaded_models() == []


def test_a_prompt_template_formats_and_complains() -> None:
    template = roundhouse.PromptTemplate("Hi {name}, {n} times", "mistral")
    assert template.format(name="{name}", n=3) == "Hi {name}, 3 times"
    with pytest.raises(errors.TemplateError):
        template.format(name="x")


def test_a_prompt_manager_prefers_the_family_and_falls_back_to_the_default() -> None:
    manager = roundhouse.PromptManager({"greet": "Hello {n}", "greet_phi": "Hi {n}"})
    assert manager.get_prompt("greet", "phi", n="A") == "Hi A"
    assert manager.get_prompt("greet", "mistral", n="A") == "Hello A"
    assert manager.get_prompt("rag_query", "demo", context=VARO, question=WHO) == QUESTION
    assert manager.get_prompt("rag_query", "mistral:7b", context=VARO, question=WHO).startswith("# Context\n")
    assert manager.get_messages("rag_query", "llama3", context=VARO, question=WHO)[0].role == "system"
    with pytest.raises(errors.TemplateError, match='there is no prompt "nope"'):
        manager.get_prompt("nope")


def test_the_manager_asks_prompts_in_arms_and_takes_feedback() -> None:
    experiment = {"prompt": "rag_query", "arms": {"a": {}, "b": {}}, "metric": "correct"}
    manager = roundhouse.LLMManager({"llm": {"providers": [DEMO]}, "experiments": {"e": experiment}})
    try:
        before = manager.ask("rag_query", context=VARO, question=WHO)
        assert (before.answer.text, before.report.experiment) == (VARO, "")
        with pytest.raises(errors.InvalidRequest):
            manager.feedback(before.report.request_id, "correct", 1)
        begin(
            experiments_place(Settings()),
            {"e": Experiment("e", (Arm("a"), Arm("b")), "correct", prompt="rag_query")},
            "e",
        )
        time.sleep(0.6)  # what another process has begun is looked for twice a second
        asked = [manager.ask("rag_query", unit="ann", context=VARO, question=WHO) for _ in range(3)]
        assert {one.report.experiment for one in asked} == {"e"}
        assert len({one.report.arm for one in asked}) == 1
        assert [manager.feedback(one.report.request_id, "correct", 1) for one in asked] == [["e"]] * 3
        with pytest.raises(errors.TemplateError):
            manager.ask("rag_query", context=VARO)
        with pytest.raises(errors.TemplateError):
            manager.ask("no_such_prompt")
    finally:
        manager.close()
    store = Store(experiments_place(Settings()))
    (sums,) = [sums["1:demo"] for sums in store.sums("e", "correct").values()]
    assert (sums.units, sums.m, sums.y) == (1, 3, 3)  # one unit with three right answers
    store.close()


def test_a_manager_whose_targets_all_fail_says_so_of_a_prompt_too() -> None:
    manager = roundhouse.LLMManager({"llm": {"providers": [DEAD]}})
    with pytest.raises(RuntimeError) as caught:
        manager.ask("rag_query", context=VARO, question=WHO)
    assert isinstance(caught.value, errors.AllProvidersFailed)
    manager.close()
