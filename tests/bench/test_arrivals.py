"""Plans of arrivals: seeded, in order, and of the rate that was asked for."""

import itertools
import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from roundhouse.bench.arrivals import OpenLoop, Shape, pick, plan, read_trace
from roundhouse.core.errors import InvalidRequest


@given(
    shape=st.sampled_from([Shape.CONSTANT, Shape.POISSON, Shape.RAMP]),
    rate=st.floats(0.01, 5000),
    to_rate=st.floats(0.01, 5000),
    count=st.integers(1, 300),
    seed=st.integers(0, 2**32),
)
def test_a_plan_has_every_request_in_order_and_the_same_again(
    shape: Shape, rate: float, to_rate: float, count: int, seed: int
) -> None:
    load = OpenLoop(shape, rate, count, to_rate=to_rate, seed=seed)
    due = plan(load)
    assert len(due) == count
    assert list(due) == sorted(due)
    assert due[0] == 0
    assert due == plan(load)


def test_poisson_gaps_have_the_mean_and_the_spread_of_an_exponential() -> None:
    due = plan(OpenLoop(Shape.POISSON, 100, 20_000, seed=1))
    gaps = [later - earlier for earlier, later in itertools.pairwise(due)]
    mean = sum(gaps) / len(gaps)
    spread = (sum((gap - mean) ** 2 for gap in gaps) / len(gaps)) ** 0.5
    assert mean == pytest.approx(0.01, rel=0.03)
    assert spread / mean == pytest.approx(1.0, rel=0.05)


def test_a_smoother_plan_has_gaps_that_differ_less() -> None:
    due = plan(OpenLoop(Shape.POISSON, 100, 20_000, burstiness=4, seed=1))
    gaps = [later - earlier for earlier, later in itertools.pairwise(due)]
    mean = sum(gaps) / len(gaps)
    assert (sum((gap - mean) ** 2 for gap in gaps) / len(gaps)) ** 0.5 / mean == pytest.approx(0.5, rel=0.05)


def test_a_ramp_begins_and_ends_at_its_rates() -> None:
    due = plan(OpenLoop(Shape.RAMP, 10, 1100, to_rate=100))
    assert due[-1] == pytest.approx(20, rel=0.01)
    assert 1 / (due[1] - due[0]) == pytest.approx(10, rel=0.05)
    assert 1 / (due[-1] - due[-2]) == pytest.approx(100, rel=0.05)


def test_a_trace_is_sent_again_as_it_was(tmp_path: Path) -> None:
    path = tmp_path / "trace.jsonl"
    path.write_text('{"at": 100.0, "what": 1}\n100.5\n\n103\n')
    assert plan(OpenLoop(Shape.REPLAY, trace=read_trace(path))) == (0.0, 0.5, 3.0)


@pytest.mark.parametrize("line", ["x", "{}", "[1]", '{"at": null}', "\x00"])
def test_a_trace_that_is_none_is_said_with_its_line(tmp_path: Path, line: str) -> None:
    path = tmp_path / "trace.jsonl"
    path.write_text(f"1\n{line}\n")
    with pytest.raises(InvalidRequest, match=r"trace.jsonl:2"):
        read_trace(path)


@pytest.mark.parametrize(
    "load",
    [
        OpenLoop(Shape.CONSTANT, 0, 5),
        OpenLoop(Shape.CONSTANT, float("nan"), 5),
        OpenLoop(Shape.CONSTANT, 5, 0),
        OpenLoop(Shape.RAMP, 5, 5),
        OpenLoop(Shape.POISSON, 5, 5, burstiness=0),
        OpenLoop(Shape.REPLAY),
        OpenLoop(Shape.REPLAY, trace=(2.0, 1.0)),
        OpenLoop(Shape.REPLAY, trace=(0.0, json.loads("NaN"))),
    ],
)
def test_what_cannot_be_planned_is_refused(load: OpenLoop) -> None:
    with pytest.raises(InvalidRequest):
        plan(load)


def test_every_question_is_asked_before_one_is_asked_again() -> None:
    order = pick(range(7), 16, seed=3)
    assert sorted(order[:7]) == sorted(order[7:14]) == list(range(7))
    assert order == pick(range(7), 16, seed=3) != pick(range(7), 16, seed=4)
