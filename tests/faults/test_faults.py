"""Our own server passes every case; and the runner is no rubber stamp: a bare faulty backend fails where it should."""

from pathlib import Path

import pytest

from roundhouse.faults import runner
from roundhouse.faults.backend import backends
from roundhouse.faults.cases import ANSWER, CASES, Case, Owed, Seen, judge
from roundhouse.faults.house import MODEL, configuration, serving
from roundhouse.faults.scorecard import renewed

SCALE = 0.05
CASE = CASES[0]


@pytest.mark.timeout(180)
async def test_our_own_server_passes_every_case() -> None:
    async with backends() as both, serving(configuration(both, SCALE)) as url:
        control = f"http://127.0.0.1:{both.control}"
        results = [result async for result in runner.run(url, "", MODEL, control, scale=SCALE)]
    assert [(one.case.name, one.streaming, one.fault) for one in results if one.fault] == []
    assert len(results) == 2 * len(CASES)


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("healthy", ""),
        ("cut", "a wrong or cut answer that looks whole"),
        ("no_finish", "a wrong or cut answer that looks whole"),
        ("503", "no answer"),
        ("refused", "no answer"),
        ("wrong_usage", "a negative count"),
    ],
)
async def test_a_gateway_that_passes_faults_on_is_found_out(
    monkeypatch: pytest.MonkeyPatch, name: str, said: str
) -> None:
    """The faulty backend itself in the place of a gateway."""
    monkeypatch.setattr(runner, "_LONGEST_S", 3.0)
    async with backends() as both:
        control = f"http://127.0.0.1:{both.control}"
        found = [
            one async for one in runner.run(f"{both.faulty.url}/v1", "", MODEL, control, scale=SCALE, names=[name])
        ]
    streamed = next(one for one in found if one.streaming)
    assert streamed.fault.startswith(said) if said else streamed.fault == ""


GOOD = Seen(200, ANSWER, "stop", "", 0.1, 1, 0, (9, 20))


@pytest.mark.parametrize(
    ("case", "seen", "said"),
    [
        (CASE, GOOD, ""),
        (CASE, Seen(200, ANSWER, "stop", "", 99.0), "took 99.0 s"),
        (CASE, Seen(200, ANSWER, "stop", "", 0.1, 0, 1), "another backend answered"),
        (Case("x", "", Owed.HONEST), Seen(200, "half", None, "", 0.1), "a wrong or cut answer that looks whole"),
        (Case("x", "", Owed.HONEST), Seen(200, "half", "stop", "", 0.1), "a wrong or cut answer that looks whole"),
        (Case("x", "", Owed.HONEST), Seen(200, "half", None, "broken", 0.1), ""),
        (Case("x", "", Owed.HONEST), Seen(200, "half", "stop", "broken", 0.1), "no answer: broken"),
        (Case("x", "", Owed.REFUSAL), Seen(400, "", None, "no", 0.1, 1, 1), "another backend was asked"),
        (Case("x", "", Owed.REFUSAL), Seen(502, "", None, "no", 0.1), "the refusal did not come through"),
        (Case("x", "", Owed.RELEASE), Seen(0, "", None, "left", 0.1), "the backend was never released"),
        (Case("x", "", Owed.RELEASE), Seen(0, "", None, "left", 0.1, released_s=0.2), ""),
    ],
)
def test_verdicts(case: Case, seen: Seen, said: str) -> None:
    assert judge(case, seen, 1.0) == said


def test_the_scorecard_is_of_these_cases() -> None:
    page = (Path(__file__).parents[2] / "docs" / "reliability.md").read_text()
    for case in CASES:
        assert case.about in page, "run: make faults"
    assert "**" not in page.partition("<!-- scorecard")[2], "a case failed"
    assert renewed(page, [], 1.0) != page
