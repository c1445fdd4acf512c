"""`roundhouse bench` as a user runs it."""

import asyncio
import json
import re
import resource
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import jsonschema
import pytest

from roundhouse.bench.mock import Timing, mock_process
from roundhouse.bench.results import read, schema
from tests.fakes.http import Exchange, fake_server
from tests.fakes.openai import answering
from tests.forge import Command, run


async def bench(*arguments: str) -> tuple[int, str, str]:
    ended = await asyncio.to_thread(run, "bench", *arguments, timeout=100)
    return ended.returncode, ended.stdout, ended.stderr


async def against_mock(path: Path, timing: Timing, *more: str) -> tuple[int, str, str]:
    load = ("--arrivals", "constant", "--rate", "50", "--count", "50", "--repeat", "4")
    async with mock_process(timing) as url:
        return await bench("run", "--url", url, "--model", "mock", "--out", str(path), *load, *more)


async def test_a_backend_that_has_become_slower_does_not_pass_the_gate(tmp_path: Path) -> None:
    """From end to end: two runs, a verdict, an exit code, a comment."""
    a, b, comment = tmp_path / "a.json", tmp_path / "b.json", tmp_path / "comment.md"
    assert (await against_mock(a, Timing(0.1, 0.02, 6), "--slo", "ttft=0.5"))[0] == 0
    assert (await against_mock(b, Timing(0.15, 0.03, 6)))[0] == 0
    code, out, _ = await bench("gate", str(a), str(b), "--metric", "e2e_sched.p50", "--comment", str(comment))
    assert code == 1
    assert "e2e_sched.p50 slower" in out
    assert comment.read_text() == out
    code, _, _ = await bench("gate", str(b), str(a), "--metric", "e2e_sched.p50")
    assert code == 0


async def test_two_servers_in_turns_are_told_apart(tmp_path: Path) -> None:
    """Both results are whole runs by themselves; which is slower is said for each metric."""
    a, b = tmp_path / "a.json", tmp_path / "b.json"
    load = ("--arrivals", "constant", "--rate", "50", "--count", "40", "--repeat", "4")
    async with mock_process(Timing(0.1, 0.02, 6)) as fast, mock_process(Timing(0.2, 0.02, 6)) as slow:
        code, out, err = await bench(
            *("run", "--url", fast, "--against-url", slow, "--model", "mock", "--against", "mock"),
            *("--out", str(a), "--out-against", str(b), *load, "--json"),
        )
    assert code == 0, err
    told = json.loads(out)
    assert {row["metric"]: row["verdict"] for row in told["rows"]}["ttft_sched.p50"] == "slower"
    turns = [line.split(":")[-2][-5:] for line in err.splitlines() if "round" in line]
    assert len(turns) == 8
    assert turns[0] == turns[3] == turns[4] != turns[1] == turns[2] == turns[5], "A B B A, and again"
    code, out, _ = await bench("compare", str(a), str(b), "--json")
    assert json.loads(out)["rows"] == told["rows"]


async def test_a_run_over_the_demo_model_tells_speed_and_quality(tmp_path: Path) -> None:
    page = tmp_path / "report.html"
    code, out, err = await bench(
        "run", "--rate", "10", "--rate", "20", "--count", "20", "--slo", "ttft=5", "--html", str(page), "--json"
    )
    assert code == 0, err
    points = json.loads(out)["points"]
    assert [point["level"] for point in points] == [10, 20]
    assert all(point["summary"]["answered"] == 20 for point in points)
    assert all(point["summary"]["by_target"] for point in points)
    assert points[0]["quality"]["exact_match"] > 0.6
    assert points[0]["summary"]["metrics"]["ttft_sched"]["p99"]["value"] is None
    assert "Latency over load" in page.read_text()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--rate", "0"), "more than 0 requests"),
        (("--rate", "1", "--users", "1"), "three kinds of load"),
        (("--slo", "speed=1"), "there is no metric speed"),
        (("--slo", "ttft=fast"), "METRIC=SECONDS"),
        (("--dataset", "/none.jsonl"), "/none.jsonl"),
        (("--url", "ftp://x"), "http://"),
        (("--url", "http://127.0.0.1:9", "--kind", "soap"), "soap"),
        (("--arrivals", "often"), "constant"),
        (("--against-url", "ftp://y"), "ftp://y"),
        (("--out-against", "b.json"), "--against"),
        (("--out", "/proc/none/a.json"), "cannot be written"),
        (("--html", "/tmp"), "cannot be written"),
    ],
)
async def test_what_cannot_be_run_is_refused_before_anything_starts(arguments: tuple[str, ...], said: str) -> None:
    code, _, err = await bench("run", *arguments)
    assert code in (1, 2)
    assert said in err
    assert "Traceback" not in err


async def test_a_run_that_is_interrupted_keeps_what_it_measured(tmp_path: Path) -> None:
    """Ctrl-C in the middle of the second load: the first is whole, of the second there is what was answered."""
    out, html = tmp_path / "a.json", tmp_path / "a.html"
    enough, answered = asyncio.Event(), 0

    async def script(exchange: Exchange) -> None:
        nonlocal answered
        await answering(exchange)
        answered += 1
        if answered > 40:  # one to begin with, thirty, and some
            enough.set()

    async with fake_server(script) as server:
        process = Command(
            *("bench", "run", "--url", server.url, "--model", "m", "--rate", "50", "--rate", "20", "--count", "30"),
            *("--out", str(out), "--html", str(html), "--json"),
        )
        await enough.wait()
        process.send_signal(signal.SIGINT)
        printed, told = await asyncio.to_thread(process.communicate)
        process.close()
    assert process.returncode == 130, told
    assert "the run is not whole: it was stopped" in told
    results = read(out)
    assert results.ended_early == "it was stopped"
    assert results.points[0].summary.answered == 30
    assert 5 <= results.points[1].summary.answered < 30
    assert results.points[1].window.end < 1.5
    assert len(json.loads(printed)["points"]) == 2
    assert "Not whole: it was stopped" in html.read_text()
    jsonschema.validate(json.loads(out.read_bytes()), schema())


async def test_what_cannot_be_written_is_said_and_what_was_measured_is_printed(tmp_path: Path) -> None:
    """No file may be larger than 4 KB, as on a full disk."""
    out = tmp_path / "a.json"
    async with fake_server(answering) as server:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "roundhouse", "bench", "run", "--url", server.url, "--model", "m"),
            *("--rate", "100", "--count", "30", "--out", str(out)),
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096)),
        )
        printed, told = await process.communicate()
    assert process.returncode == 1
    assert b"30 answered" in printed
    assert f"roundhouse: {out} could not be written: ".encode() in told
    assert b"Traceback" not in told
    assert list(tmp_path.glob("*.json")) == []


async def test_a_server_that_answers_nothing_fails_the_run(tmp_path: Path) -> None:
    async def failing(exchange: Exchange) -> None:
        await exchange.whole({"error": {"message": "no"}}, status=500)

    async with fake_server(failing) as server:
        code, out, _ = await bench("run", "--url", server.url, "--model", "m", "--rate", "50", "--count", "5")
    assert code == 1
    assert "provider_error 5" in out


@pytest.mark.parametrize("subject", [("--url", "http://127.0.0.1:9"), ("--model", "nope")])
async def test_what_is_not_there_is_not_driven(subject: tuple[str, str]) -> None:
    """Minutes of refused connections would measure nothing."""
    code, out, told = await bench("run", *subject)
    assert (code, out) == (1, "")
    assert f"{subject[1]} was not driven: its first request failed" in told


@pytest.mark.skipif(shutil.which("chromium") is None, reason="no chromium to open the report with")
async def test_nothing_overlaps_in_a_browser(tmp_path: Path) -> None:
    """The report's texts, as a browser lays them out: none lies on another, in no picture."""
    out, page = tmp_path / "a.json", tmp_path / "report.html"
    await against_mock(out, Timing(0.05, 0.01, 4))
    assert (await bench("report", str(out), "--out", str(page)))[0] == 0
    script = (
        "<script>let bad=[],seen=0;for(const svg of document.querySelectorAll('svg')){"
        "const b=[...svg.querySelectorAll('text')].map(t=>[t.getBoundingClientRect(),t.textContent]);seen+=b.length;"
        "for(let i=0;i<b.length;i++)for(let j=i+1;j<b.length;j++){const x=b[i][0],y=b[j][0];"
        "if(x.left<y.right&&y.left<x.right&&x.top<y.bottom&&y.top<x.bottom)bad.push(b[i][1]+' on '+b[j][1])}}"
        "document.title='seen '+seen+', overlaps: '+bad.join('; ')</script>"
    )
    page.write_text(page.read_text() + script)
    chromium = ("chromium", "--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path}/profile")
    shown = await asyncio.to_thread(
        subprocess.run, [*chromium, "--dump-dom", f"file://{page}"], capture_output=True, text=True, timeout=60
    )
    told = re.search(r"<title>seen (\d+), overlaps: (.*?)</title>", shown.stdout)
    assert told is not None
    assert int(told[1]) > 50
    assert told[2] == ""
