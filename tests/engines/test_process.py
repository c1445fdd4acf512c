"""Real children: they say when they are ready or why not, are noticed when they die, and never outlive us."""

import asyncio
import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import aiohttp
import psutil
import pytest

from roundhouse.core import errors
from roundhouse.engines import launch
from roundhouse.engines.launch import Spawn
from roundhouse.engines.process import Child

FOREIGN = """
import http.server, os, sys, time
{before}
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200); self.end_headers()
    def log_message(self, *args): pass
http.server.HTTPServer(("127.0.0.1", int(sys.argv[1])), Handler).serve_forever()
"""


def _foreign(before: str = "") -> Spawn:
    """A program that is not ours and serves /health."""
    return Spawn((sys.executable, "-c", FOREIGN.format(before=before), "{port}"), slots=1, key_variable="FOREIGN_KEY")


def _demo(path: Path, **options: object) -> Spawn:
    return launch.llamacpp(str(path), {"n_threads": 1, "n_ctx": 256, **options}, cores=1)


async def _gone(pid: int, within_s: float = 2.0) -> bool:
    deadline = time.monotonic() + within_s
    while psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE:
        if time.monotonic() > deadline:
            return False
        await asyncio.sleep(0.02)
    return True


async def test_a_worker_is_ready_and_answers_only_with_its_key(demo_gguf: Path) -> None:
    child, ready = await Child.start("t", _demo(demo_gguf), 30)
    try:
        body = {"messages": [{"role": "user", "content": "hi"}], "max_tokens": 1}
        async with aiohttp.ClientSession() as session:
            async with session.post(ready.url + "/v1/chat/completions", json=body) as response:
                assert response.status == 401
            headers = {"authorization": f"Bearer {ready.key}"}
            async with session.post(ready.url + "/v1/chat/completions", json=body, headers=headers) as response:
                assert response.status == 200
        command = " ".join(psutil.Process(child.pid).cmdline())
        assert ready.key not in command
        assert ready.key not in repr(ready)
    finally:
        await child.stop()
    assert await _gone(child.pid)


async def test_the_window_of_one_request_is_what_was_asked_for_with_several_slots(demo_gguf: Path) -> None:
    from roundhouse.providers.base import Endpoint
    from roundhouse.providers.llamacpp import LlamaCppClient

    child, ready = await Child.start("t", _demo(demo_gguf, n_parallel=3, n_ctx=512), 30)
    client = LlamaCppClient(Endpoint("t", ready.url, key=ready.key))
    try:
        assert await client.awindow_tokens() == 512
    finally:
        await client.aclose()
        await child.stop()


async def test_a_setting_that_this_build_does_not_know_is_reported(demo_gguf: Path) -> None:
    child, ready = await Child.start("t", _demo(demo_gguf, no_such_setting=1), 30)
    await child.stop()
    assert ready.facts["skipped"] == ["no_such_setting"]


async def test_a_file_that_cannot_be_loaded_gives_the_reason_and_leaves_no_child(
    tmp_path: Path, demo_gguf: Path
) -> None:
    cut = tmp_path / "cut.gguf"
    cut.write_bytes(demo_gguf.read_bytes()[:5_000_000])
    with pytest.raises(errors.LaunchFailed) as caught:
        await Child.start("t", _demo(cut), 30)
    assert "not within the file bounds" in str(caught.value)
    assert any("cut.gguf" in line for line in caught.value.log_tail)
    assert psutil.Process().children() == []


async def test_a_missing_package_says_what_to_install_and_a_broken_one_says_why(
    tmp_path: Path, demo_gguf: Path
) -> None:
    spawn = _demo(demo_gguf)
    shadow = tmp_path / "xllamacpp.py"
    env = {"PYTHONPATH": str(tmp_path)}
    shadow.write_text("raise ModuleNotFoundError(\"No module named 'xllamacpp'\", name='xllamacpp')")
    missing = Spawn(spawn.argv, 1, settings=spawn.settings, env=env)
    with pytest.raises(errors.MissingExtra, match=r'pip install "roundhouse\[llamacpp\]"'):
        await Child.start("t", missing, 30)
    shadow.write_text("raise ImportError('libstdc++.so.6: version not found')")
    with pytest.raises(errors.LaunchFailed, match=r"cannot be imported: libstdc\+\+"):
        await Child.start("t", missing, 30)


async def test_a_foreign_server_is_polled_until_it_is_healthy_and_gets_its_key_in_the_environment(
    tmp_path: Path,
) -> None:
    told = tmp_path / "key"
    child, ready = await Child.start("t", _foreign(f"open({str(told)!r}, 'w').write(os.environ['FOREIGN_KEY'])"), 30)
    await child.stop()
    assert told.read_text() == ready.key
    assert await _gone(child.pid)


async def test_a_program_that_does_not_exist_is_said() -> None:
    with pytest.raises(errors.LaunchFailed, match="cannot start /no/such/program"):
        await Child.start("t", Spawn(("/no/such/program",), 1), 30)


async def test_a_server_that_ends_before_it_is_ready_is_noticed_at_once() -> None:
    started = time.monotonic()
    with pytest.raises(errors.Died) as caught:
        await Child.start("t", _foreign("print('no licence found'); sys.exit(3)"), 60)
    assert time.monotonic() - started < 10
    assert caught.value.exit_status == 3
    assert "no licence found" in str(caught.value)


async def test_a_load_past_its_limit_ends_with_the_log_and_no_child() -> None:
    with pytest.raises(errors.NotHealthy, match="was not ready after 1 s"):
        await Child.start("t", _foreign("print('reading'); sys.stdout.flush(); time.sleep(60)"), 1)
    assert psutil.Process().children(recursive=True) == []


async def test_a_cancelled_start_leaves_no_child() -> None:
    starting = asyncio.create_task(Child.start("t", _foreign("time.sleep(60)"), 60))
    while not psutil.Process().children():
        await asyncio.sleep(0.01)
    starting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await starting
    assert psutil.Process().children(recursive=True) == []


async def test_stopping_twice_and_stopping_one_that_ignores_the_request_both_end_it() -> None:
    child, _ = await Child.start("t", _foreign("import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN)"), 30)
    inner = psutil.Process(child.pid).children()[0].pid
    await asyncio.gather(child.stop(grace_s=0.2), child.stop(grace_s=0.2))
    assert await _gone(child.pid)
    assert await _gone(inner)


async def test_a_kill_is_said_in_words(demo_gguf: Path) -> None:
    child, _ = await Child.start("t", _demo(demo_gguf), 30)
    os.kill(child.pid, signal.SIGKILL)
    await asyncio.wait_for(child.exited, 1.0)
    death = child.death()
    assert death is not None
    assert death.exit_status == -9
    assert "was killed (SIGKILL)" in str(death)
    await child.stop()


async def test_a_flood_on_the_log_neither_blocks_nor_grows() -> None:
    flood = "sys.stdout.write('x' * 3_000_000 + '\\n')\nfor n in range(100_000): print('line', n)"
    child, _ = await Child.start("t", _foreign(flood + "\nsys.stdout.flush()"), 60)
    assert len(child.log_tail) <= 200
    assert child.log_tail[-1] == "line 99999"
    await child.stop()


PARENT = """
import asyncio, sys
from roundhouse.engines.process import Child
from roundhouse.engines.launch import Spawn, llamacpp
import psutil
async def main():
    if sys.argv[1] == "foreign":
        spawn = Spawn((sys.executable, "-c", sys.argv[2], "{port}"), slots=1)
    else:
        spawn = llamacpp(sys.argv[2], {"n_threads": 1, "n_ctx": 256}, cores=1)
    child, ready = await Child.start("t", spawn, 30)
    print(*[p.pid for p in psutil.Process().children(recursive=True)], flush=True)
    await asyncio.sleep(60)
asyncio.run(main())
"""


@pytest.mark.parametrize("kind", ["worker", "foreign"])
async def test_killing_the_parent_leaves_no_child_alive(kind: str, demo_gguf: Path) -> None:
    """The parent gets no chance to clean up: SIGKILL."""
    subject = str(demo_gguf) if kind == "worker" else FOREIGN.format(before="")
    parent = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(PARENT), kind, subject], stdout=subprocess.PIPE, text=True
    )
    assert parent.stdout is not None
    pids = [int(pid) for pid in (await asyncio.to_thread(parent.stdout.readline)).split()]
    assert len(pids) == (1 if kind == "worker" else 2)
    parent.kill()
    parent.wait()
    parent.stdout.close()
    for pid in pids:
        assert await _gone(pid, within_s=2.0)
