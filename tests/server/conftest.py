"""A real server in a process of its own, started by the command that users type."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.fakes.http import FakeServer, fake_server
from tests.fakes.openai import answering
from tests.fakes.threads import in_thread
from tests.forge import Command

__all__ = ["Served"]


@dataclass(slots=True)
class Served:
    """`url` ends in /v1."""

    url: str
    process: Command


@contextmanager
def serve(config: Path | None = None, *flags: str, before: Sequence[str] = ()) -> Iterator[Served]:
    """`before`: flags of the whole command. `TEST_WORKERS=2` has worker processes answer all tests of this folder."""
    command = [*before, "serve", "--port", "0", *flags]
    if "TEST_WORKERS" in os.environ and "--workers" not in flags:
        command += ["--workers", os.environ["TEST_WORKERS"]]
    if config is not None:
        command += ["--config", str(config)]
    environ = {name: value for name, value in os.environ.items() if not name.startswith("ROUNDHOUSE_")}
    if config is not None:
        environ["XDG_STATE_HOME"] = str(config.parent / "state")
    process = Command(*command, env=environ)
    try:
        line = process.stdout.readline()
        assert line.startswith("listening on "), process.stderr.read()
        yield Served(line.removeprefix("listening on ").strip(), process)
    finally:
        process.send_signal(signal.SIGINT)
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        process.close()


@pytest.fixture(scope="package")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """The demo model behind two names."""
    config = tmp_path_factory.mktemp("serve") / "c.yaml"
    config.write_text("llm:\n  providers:\n    - {type: llamacpp, model: demo, name: demo}\nroutes: {answers: demo}\n")
    with serve(config) as server:
        yield server


@pytest.fixture
def serving() -> Callable[..., object]:
    return serve


@pytest.fixture(scope="package")
def able(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Served, FakeServer]]:
    """A server over a backend that can do everything, and that backend."""
    config = tmp_path_factory.mktemp("able") / "c.yaml"
    with in_thread(fake_server(answering)) as fake:
        config.write_text(f"llm: {{providers: [{{type: openai, name: able, model: m, endpoint: '{fake.url}'}}]}}\n")
        with serve(config) as server:
            yield server, fake
