"""A real server in a process of its own, started by the command that users type."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

__all__ = ["Served"]


@dataclass(slots=True)
class Served:
    """`url` ends in /v1."""

    url: str
    process: subprocess.Popen[str]


@contextmanager
def serve(config: Path | None = None, *flags: str) -> Iterator[Served]:
    command = [sys.executable, "-m", "roundhouse", "serve", "--port", "0", *flags]
    if config is not None:
        command += ["--config", str(config)]
    environ = {name: value for name, value in os.environ.items() if not name.startswith("ROUNDHOUSE_")}
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environ)
    assert process.stdout is not None
    assert process.stderr is not None
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
        process.stdout.close()
        process.stderr.close()


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
