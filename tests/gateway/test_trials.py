"""Who is in which arm, what is recorded of an answer, and what a rule does: through the parts that a server uses."""

import asyncio
import math
from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from roundhouse.config import Settings, load_text
from roundhouse.core import errors
from roundhouse.core.chat import ChatRequest, Chunk, Chunks, Timings, Usage
from roundhouse.core.report import Report
from roundhouse.experiments.design import Allocation, Arm, Experiment
from roundhouse.experiments.store import Exposure, Outcome, State, Store
from roundhouse.gateway import Gateway
from roundhouse.gateway.keeping import experiments_place
from roundhouse.gateway.trials import Caller, Trials, designs_of
from roundhouse.gateway.wordings import catalog_of
from roundhouse.prompts.builtin import REFUSAL
from roundhouse.routing.manager import Reply
from tests.conftest import VARO, WHO

ARMS = (Arm("a"), Arm("b", prompt="p2"))
FIRST: Mapping[str, tuple[str, str]] = {"": ("one", "m1"), "r1": ("one", "m1"), "r2": ("two", "m2")}


def _design(**fields: Any) -> Experiment:
    return Experiment(**{"name": "e", "arms": ARMS, "metric": "ok", "prompt": "p", **fields})


def _trials(path: Path, *designs: Experiment) -> Trials:
    store = Store(path)
    for design in designs:
        store.start(design, 1.0)
    store.close()
    return Trials({design.name: design for design in designs}, path, lambda route: FIRST[route])


async def _chunks(fail: errors.Error | None = None) -> AsyncGenerator[Chunk, None]:
    yield Chunk("hello")
    if fail:
        raise fail
    yield Chunk(finish_reason="length", usage=Usage(3, 7), timings=Timings(first_token_s=0.5, total_s=1.5))


async def _answer(trials: Trials, target: str = "one", fail: errors.Error | None = None, **asked: Any) -> Report:
    """One request from its arm to its end."""
    request_id = asked.get("request_id", "r")
    caller = asked.get("caller", Caller("ann"))
    enrolled = trials.enrol(ChatRequest.of("q"), "p", caller, 1, request_id)
    report = Report(request_id, "default", target)
    if enrolled is None:
        return report
    reply = trials.watch(Reply(_chunks(fail), report), enrolled)
    async with aclosing(reply.chunks) as chunks:
        try:
            _ = [chunk async for chunk in chunks]
        except errors.Error:
            assert fail
    return report


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "x.sqlite"


async def test_an_answer_leaves_its_exposure_and_what_was_measured(path: Path) -> None:
    trials = _trials(path, _design())
    report = await _answer(trials)
    assert (report.experiment, report.arm in "ab") == ("e", True)
    assert trials.feedback("r", "ok", 1.0) == ["e"]
    await trials.aclose()
    store = Store(path)
    measured = {
        "first_token_s": 0.5,
        "total_s": 1.5,
        "output_tokens": 7,
        "cut_off": 1,
        "error": 0,
        "refusal": 0,
        "ok": 1,
    }
    for metric, value in measured.items():
        assert store.sums("e", metric)[report.arm]["1:m1"].y == value
    assert store.counts("e", served=True) == {("1", report.arm): 1}


@pytest.mark.parametrize("metric", ["error", "total_s", "format"])
async def test_what_the_house_measures_no_caller_tells_and_no_value_breaks_the_sums(path: Path, metric: str) -> None:
    trials = _trials(path, replace(_design(), scorers=("format",)))
    await _answer(trials)
    with pytest.raises(errors.InvalidRequest, match="is not for a caller to tell"):
        trials.feedback("r", metric, 0.0)
    for value in (math.nan, math.inf, -1e300):
        with pytest.raises(errors.InvalidRequest, match="at most 1e"):
            trials.feedback("r", "ok", value)
    await trials.aclose()
    assert all(arm["1:m1"].y == 0 for arm in Store(path).sums("e", "error").values())


async def test_live_refusals_are_those_that_evaluation_counts(path: Path) -> None:
    trials = _trials(path, _design())
    for number, text in enumerate(["I'm sorry, but I can't help with that.", REFUSAL, "It was built in 1871."]):
        enrolled = trials.enrol(ChatRequest.of("q"), "p", Caller("ann"), 1, str(number))
        assert enrolled is not None

        async def said(text: str = text) -> Chunks:
            yield Chunk(text)
            yield Chunk(finish_reason="stop")

        reply = trials.watch(Reply(said(), Report(str(number), "default", "one")), enrolled)
        async with aclosing(reply.chunks) as chunks:
            _ = [chunk async for chunk in chunks]
    await trials.aclose()
    (told,) = Store(path).sums("e", "refusal").values()
    assert (told["1:m1"].y, told["1:m1"].m) == (2, 3)


async def test_a_failure_is_an_outcome_and_a_caller_who_left_is_not(path: Path) -> None:
    trials = _trials(path, _design())
    report = await _answer(trials, fail=errors.StreamBroken("cut"), request_id="broken")
    await _answer(trials, fail=errors.InvalidRequest("yours"), request_id="theirs")
    enrolled = trials.enrol(ChatRequest.of("q"), "p", Caller("ann"), 1, "left")
    assert enrolled is not None
    reply = trials.watch(Reply(_chunks(), Report("left", "default", "one")), enrolled)
    await anext(reply.chunks)
    await reply.chunks.aclose()
    await trials.aclose()
    store = Store(path)
    assert store.sums("e", "error")[report.arm]["1:m1"].y == 1
    assert store.sums("e", "error")[report.arm]["1:m1"].m == 1
    assert store._db.query("SELECT COUNT(*) FROM exposures") == [(3,)]


async def test_what_a_fallback_answered_counts_by_intention_alone(path: Path) -> None:
    trials = _trials(path, _design())
    report = await _answer(trials, target="another")
    await trials.aclose()
    store = Store(path)
    assert store.counts("e") == {("1", report.arm): 1}
    assert store.counts("e", served=True) == {}


async def test_an_arm_served_by_the_others_target_counts_there_as_served(path: Path) -> None:
    arms = (Arm("a", route="r1"), Arm("b", route="r2"))
    trials = _trials(path, _design(arms=arms))
    intended = (await _answer(trials, target="two")).arm
    await trials.aclose()
    store = Store(path)
    assert list(store.counts("e")) == [("1", intended)]
    assert list(store.counts("e", served=True)) == [("1", "b")]


async def test_a_unit_stays_in_its_arm_whatever_the_unit_is_called(path: Path) -> None:
    kinds = {
        "body": Caller("u"),
        "key": Caller("", [(b"authorization", b"Bearer k")]),
        "header:X-User": Caller("", [(b"x-user", b"u")]),
    }
    for kind, caller in kinds.items():
        trials = _trials(path, _design(name=f"e-{kind}", unit=kind))
        arms = {(await _answer(trials, caller=caller, request_id=f"{kind}{n}")).arm for n in range(8)}
        assert len(arms) == 1
        await trials.aclose()
    trials = _trials(path, _design(name="each", unit="request"))
    assert len({(await _answer(trials, request_id=f"r{n}")).arm for n in range(40)}) == 2
    await trials.aclose()


async def test_new_weights_move_nobody_but_those_whose_arm_gets_no_traffic(path: Path) -> None:
    trials = _trials(path, _design())
    before = {f"u{n}": (await _answer(trials, caller=Caller(f"u{n}"), request_id=f"1{n}")).arm for n in range(30)}
    await trials.aclose()
    trials = _trials(path, _design(arms=(Arm("a", 9), Arm("b", 1, prompt="p2"))))
    after = {unit: (await _answer(trials, caller=Caller(unit), request_id=f"2{unit}")).arm for unit in before}
    assert after == before
    await trials.aclose()
    trials = _trials(path, _design(arms=(Arm("a", 1), Arm("b", 0, prompt="p2"))))
    assert {(await _answer(trials, caller=Caller(unit), request_id=f"3{unit}")).arm for unit in before} == {"a"}
    await trials.aclose()


async def test_stopping_and_promoting_by_another_process_takes_effect(path: Path) -> None:
    trials = _trials(path, _design())
    store = Store(path)
    store.promote("e", "b", "by hand", 2.0)
    trials._known._reread_at = 0.0
    enrolled = [trials.enrol(ChatRequest.of("q"), "p", Caller(f"u{n}"), 1, str(n)) for n in range(20)]
    assert {one.arm.name for one in enrolled if one} == {"b"}
    assert {one.prompt for one in enrolled if one} == {"p2"}
    store.stop("e", "enough", 3.0)
    trials._known._reread_at = 0.0
    assert trials.enrol(ChatRequest.of("q"), "p", Caller("u"), 1, "x") is None
    await trials.aclose()
    assert store.counts("e") == {}


async def test_what_concerns_no_experiment_and_feedback_for_it_are_told_apart(path: Path) -> None:
    trials = _trials(path, _design())
    assert trials.enrol(ChatRequest.of("q"), "", Caller("u"), 1, "x") is None
    assert trials.enrol(ChatRequest.of("q"), "other", Caller("u"), 1, "x") is None
    with pytest.raises(errors.InvalidRequest, match='no experiment saw the request "x"'):
        trials.feedback("x", "ok", 1)
    await trials.aclose()


def _fill(path: Path, right: Mapping[str, float], error: Mapping[str, float], units: int = 400) -> None:
    store = Store(path)
    for place, arm in enumerate(right):
        exposures, outcomes = [], []
        for n in range(units):
            number = place * units + n + 1
            exposures.append(Exposure(number, "e", number, arm, arm, "1:m", 0.5, 0.0, 1.0))
            outcomes.append(Outcome(number, number, "ok", float(n < right[arm] * units), 1.0))
            outcomes.append(Outcome(number, number, "error", float(n < error[arm] * units), 1.0))
        store.write(exposures, outcomes)


@pytest.mark.parametrize(
    ("right", "error", "promote", "state", "winner"),
    [
        ({"a": 0.5, "b": 0.8}, {"a": 0, "b": 0}, True, State.PROMOTED, "b"),
        ({"a": 0.8, "b": 0.5}, {"a": 0, "b": 0}, True, State.PROMOTED, "a"),
        ({"a": 0.5, "b": 0.8}, {"a": 0, "b": 0}, False, State.RUNNING, ""),
        ({"a": 0.5, "b": 0.52}, {"a": 0, "b": 0}, True, State.RUNNING, ""),
        ({"a": 0.5, "b": 0.8}, {"a": 0, "b": 0.4}, True, State.STOPPED, ""),
        ({"a": 0.5, "b": 0.8}, {"a": 0.1, "b": 0.15}, True, State.RUNNING, ""),
    ],
)
async def test_a_rule_promotes_a_winner_whose_guardrails_hold_and_stops_what_does_harm_never_silently(
    path: Path,
    caplog: pytest.LogCaptureFixture,
    right: Mapping[str, float],
    error: Mapping[str, float],
    promote: bool,
    state: State,
    winner: str,
) -> None:
    trials = _trials(path, _design(guardrails={"error": 0.1}, auto_promote=promote))
    _fill(path, right, error)
    trials.judge()
    run = Store(path).runs()["e"]
    assert (run.state, run.winner) == (state, winner)
    assert bool(caplog.messages) == (state is not State.RUNNING)
    assert len(Store(path).events("e")) == (1 if state is State.RUNNING else 2)
    await trials.aclose()


async def test_a_broken_split_has_no_winner(path: Path) -> None:
    trials = _trials(path, _design(auto_promote=True))
    _fill(path, {"a": 0.5}, {"a": 0}, 400)
    store = Store(path)
    many = range(10_000, 10_900)
    store.write(
        [Exposure(n, "e", n, "b", "b", "1:m", 0.5, 0.0, 1.0) for n in many],
        [Outcome(n, n, "ok", 1.0, 1.0) for n in many],
    )
    trials.judge()
    assert store.runs()["e"].state is State.RUNNING
    await trials.aclose()


@pytest.mark.parametrize(
    ("arms", "message"),
    [
        ("{a: {}, b: {prompt: nope}}", r"arms\.b: there is no prompt"),
        ("{a: {}, b: {route: nope}}", r'arms\.b: there is no route or target "nope"'),
        ("{a: {}, b: {prompt: summarization}}", 'needs "text", which callers of rag_query do not send'),
        ("{a: {}}", "two arms at least"),
    ],
)
def test_an_experiment_that_cannot_run_is_refused_with_the_configuration(arms: str, message: str) -> None:
    experiment = f"e: {{prompt: rag_query, metric: ok, arms: {arms}}}"
    text = f"llm: {{providers: [{{type: llamacpp, model: demo}}]}}\nexperiments: {{{experiment}}}"
    settings = load_text(text)
    with pytest.raises(errors.ConfigError, match=message):
        designs_of(settings, catalog_of(settings))


async def test_through_the_gateway_both_arms_answer_and_the_report_says_which() -> None:
    text = """
        llm:
          providers: [{type: llamacpp, model: demo}]
          prompt_templates: {short: "Context: {context} Q: {question}"}
        experiments:
          e:
            prompt: rag_query
            metric: ok
            unit: request
            arms: {long: {}, short: {prompt: short, settings: {max_tokens: 3}}}
    """
    settings = load_text(text)
    Store(experiments_place(Settings())).start(designs_of(settings, catalog_of(settings))["e"], 1.0)
    seen: dict[str, str] = {}
    async with Gateway(settings) as gateway:
        while len(seen) < 2:
            values = {"context": VARO, "question": WHO}
            reply = await gateway.converse(ChatRequest(()), prompt="rag_query", variables=values, caller=Caller())
            async with aclosing(reply.chunks) as chunks:
                last = [chunk async for chunk in chunks][-1]
            seen[reply.report.arm] = f"{reply.report.prompt.partition('@')[0]} {last.finish_reason}"
            assert await gateway.feedback(reply.report.request_id, "ok", 1.0) == ["e"]
    assert seen == {"long": "rag_query stop", "short": "short length"}


@pytest.mark.parametrize("name", ["long", "rag_query_mistral"], ids=["nothing may be cut", "its context may be cut"])
async def test_a_prompt_that_does_not_fit_in_its_arms_words_counts_as_that_arms_error(name: str) -> None:
    text = """
        llm:
          providers: [{type: llamacpp, model: demo, n_ctx: 256}]
          prompt_templates: {NAME: "LONG {context} {question}"}
        experiments:
          e: {prompt: rag_query, metric: error, arms: {now: {weight: 0}, long: {prompt: NAME}}}
    """.replace("LONG", "many words " * 300).replace("NAME", name)
    settings = load_text(text)
    Store(experiments_place(Settings())).start(designs_of(settings, catalog_of(settings))["e"], 1.0)
    values = {"context": VARO, "question": WHO}
    async with Gateway(settings) as gateway:
        with pytest.raises(errors.ContextTooLong):
            reply = await gateway.converse(ChatRequest(()), prompt="rag_query", variables=values, caller=Caller())
            async with aclosing(reply.chunks) as chunks:
                _ = [chunk async for chunk in chunks]
        with pytest.raises(errors.TemplateError):
            await gateway.converse(ChatRequest(()), prompt="rag_query", variables={"x": 1}, caller=Caller())
    found = Store(experiments_place(Settings())).sums("e", "error")["long"]
    assert [(sums.m, sums.y) for sums in found.values()] == [(1, 1)]


async def test_shares_follow_the_evidence_and_who_has_an_arm_keeps_it_in_its_stratum(path: Path) -> None:
    design = _design(allocation=Allocation.THOMPSON, batch=60)
    trials = _trials(path, design)
    arms = {}
    for number in range(60):
        caller, request_id = Caller(f"u{number}"), f"r{number}"
        arms[number] = (await _answer(trials, caller=caller, request_id=request_id)).arm
        trials.feedback(request_id, "ok", float(arms[number] == "b"))
    trials._recorder.flush()
    await asyncio.to_thread(trials.judge)
    await asyncio.to_thread(trials.judge)  # nobody has come since
    store = Store(path)
    run = store.runs()["e"]
    assert run.generation == 2
    assert run.weights["b"] == pytest.approx(0.95, abs=0.01)
    assert store.events("e")[-1][1] == "shares are a 5%, b 95% now"
    await asyncio.sleep(0.6)  # what has changed is looked for twice a second
    for number in range(60):
        again = await _answer(trials, caller=Caller(f"u{number}"), request_id=f"again{number}")
        assert again.arm == arms[number]
    new = [(await _answer(trials, caller=Caller(f"n{number}"), request_id=f"n{number}")).arm for number in range(40)]
    assert new.count("b") > 30
    await trials.aclose()
    counts = store.counts("e")
    assert {arm: counts["1", arm] for arm in "ab"} == {arm: list(arms.values()).count(arm) for arm in "ab"}
    assert sum(counts.get(("2", arm), 0) for arm in "ab") == 40
    store.close()
