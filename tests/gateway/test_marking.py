"""Answers are scored for experiments off the path of requests; a scorer that fails or hangs harms nobody else."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import pytest

from roundhouse.config import Settings, load_text
from roundhouse.core.chat import ChatRequest
from roundhouse.core.errors import ConfigError, InvalidRequest
from roundhouse.experiments.store import Exposure, Outcome, Store
from roundhouse.gateway import Gateway, marking
from roundhouse.gateway.keeping import experiments_place
from roundhouse.gateway.marking import Marking
from roundhouse.gateway.trials import Caller, designs_of
from roundhouse.gateway.wordings import catalog_of
from roundhouse.scoring.scorers import Scored
from roundhouse.scoring.text import fits
from tests.conftest import VARO, WHO

EXPOSURE = Exposure(7, "e", 3, "a", "a", "1:m", 0.5, 0.0, 1.0)
SCHEMA = {"type": "object", "required": ["name"], "properties": {"name": {"type": "string", "pattern": "^A"}}}
release = threading.Event()


def asked_for(given: Scored) -> float:
    """How many of the question's words are in the answer."""
    words = given.values["question"].split()
    return sum(word.strip("?") in given.answer for word in words) / len(words)


def hangs(given: Scored) -> float:
    release.wait(60)
    return 1.0


def breaks(given: Scored) -> float:
    raise RuntimeError("no")


def _done(names: tuple[str, ...], given: Scored) -> tuple[list[Outcome], Marking]:
    outcomes: list[Outcome] = []
    marking_ = Marking(outcomes.append)
    marking_.mark(names, given, EXPOSURE)
    marking_.close()
    return outcomes, marking_


def test_each_scorer_is_an_outcome_of_its_name() -> None:
    given = Scored('{"name": "Ann"}', values={"question": "Ann ?"}, schema=SCHEMA)
    outcomes, _ = _done(("format", "characters", f"{__name__}:asked_for"), given)
    assert [(one.unit, one.exposure, one.metric, one.value) for one in outcomes] == [
        (3, 7, "format", 1.0),
        (3, 7, "characters", 15.0),
        (3, 7, f"{__name__}:asked_for", 1.0),
    ]


def test_a_scorer_that_fails_is_said_once_and_the_others_score_on(caplog: pytest.LogCaptureFixture) -> None:
    outcomes: list[Outcome] = []
    marking_ = Marking(outcomes.append)
    for _ in range(3):
        marking_.mark((f"{__name__}:breaks", "json"), Scored("[]"), EXPOSURE)
    marking_.close()
    assert [one.metric for one in outcomes] == ["json"] * 3
    assert marking_.lost == 3
    assert [record.message for record in caplog.records].count(
        f'an answer is not scored: scorer "{__name__}:breaks" failed: RuntimeError: no'
    ) == 1  # fmt: skip


def test_a_scorer_that_hangs_makes_nobody_wait(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(marking, "_MOST_WAITING", 5)
    monkeypatch.setattr(marking, "_STOP_S", 0.1)
    release.clear()
    marking_ = Marking(lambda outcome: None)
    for _ in range(20):
        marking_.mark((f"{__name__}:hangs",), Scored(""), EXPOSURE)
    assert marking_.lost >= 14
    marking_.close()
    release.set()
    assert "scorers are slower than answers come" in caplog.text


@pytest.mark.parametrize(
    ("text", "schema", "fitting"),
    [
        ('{"name": "Ann"}', SCHEMA, True),
        ('{"name": "Bob"}', SCHEMA, False),
        ("{}", SCHEMA, False),
        ("{}", {}, True),
        ("[]", None, True),
        ("3", None, False),
        ("3", {"type": "integer"}, True),
        ('{"a": NaN}', {}, False),
        ("no", SCHEMA, False),
        ("[" * 100_000, SCHEMA, False),
    ],
)
def test_the_format_is_that_of_the_request(text: str, schema: dict[str, Any] | None, fitting: bool) -> None:
    assert fits(text, schema) is fitting


def test_a_hostile_schema_costs_no_time_and_fetches_nothing() -> None:
    assert not fits(f'"{"a" * 50}!"', {"type": "string", "pattern": "^(a+)+$"})
    for hostile in ({"$ref": "http://127.0.0.1:9/x"}, {"type": "nonsense"}, {"pattern": "(?<=a)b", "type": "string"}):
        with pytest.raises(InvalidRequest, match="the schema of a request is none"):
            fits('"x"', hostile)


@pytest.mark.parametrize(
    ("scorer", "said"),
    [
        ("nothing", 'there is no scorer "nothing"'),
        ("f1", "f1 needs the right answer, which nobody knows here"),
        ("refusal", "refusal is measured anyway"),
        ("json:nowhere", "cannot be loaded"),
    ],
)
def test_a_scorer_that_cannot_score_is_refused_with_the_configuration(scorer: str, said: str) -> None:
    settings = load_text(
        "llm: {providers: [{type: llamacpp, model: demo}]}\n"
        f"experiments: {{e: {{route: default, arms: {{a: {{}}, b: {{}}}}, metric: ok, scorers: ['{scorer}']}}}}\n"
    )
    with pytest.raises(ConfigError) as caught:
        designs_of(settings, catalog_of(settings))
    assert said in str(caught.value)


async def test_answers_to_a_prompt_are_scored_with_its_variables(tmp_path: Path) -> None:
    settings = load_text(
        "llm: {providers: [{type: llamacpp, model: demo}]}\n"
        "experiments: {e: {prompt: rag_query, arms: {a: {}, b: {}}, metric: ok, "
        f"scorers: ['{__name__}:asked_for', characters]}}}}\n"
    )
    async with Gateway(settings) as gateway:
        await gateway.begin_experiment("e")
        reply = await gateway.converse(
            ChatRequest(()), prompt="rag_query", variables={"context": VARO, "question": WHO}, caller=Caller("ann")
        )
        text = "".join([chunk.text async for chunk in reply.chunks])
    store = Store(experiments_place(Settings()))
    assert sum(sums["1:demo"].y for sums in store.sums("e", "characters").values()) == len(text) > 0
    assert sum(sums["1:demo"].y for sums in store.sums("e", f"{__name__}:asked_for").values()) > 0
    store.close()
