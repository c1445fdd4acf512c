"""Every way in which a backend fails, with worker processes between: the same answers, the same errors."""

import pytest

from roundhouse.faults import runner
from roundhouse.faults.backend import backends
from roundhouse.faults.cases import CASES
from roundhouse.faults.house import MODEL, configuration, serving

SCALE = 0.05


@pytest.mark.timeout(180)
async def test_two_workers_pass_every_case() -> None:
    async with backends() as both:
        text = configuration(both, SCALE).replace("port: 0", "port: 0, workers: 2")
        async with serving(text) as url:
            control = f"http://127.0.0.1:{both.control}"
            results = [result async for result in runner.run(url, "", MODEL, control, scale=SCALE)]
    assert "workers: 2" in text
    assert [(one.case.name, one.streaming, one.fault) for one in results if one.fault] == []
    assert len(results) == 2 * len(CASES)
