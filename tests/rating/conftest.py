"""A file of answers, `roundhouse rate open` as a process of its own, and a real browser on its page."""

from __future__ import annotations

import json
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.browser.conftest import browser
from tests.forge import Command

__all__ = ["browser"]

QUESTIONS = 6


@pytest.fixture
def answers(tmp_path: Path) -> Path:
    """Of two variants to six questions; what `good` and `poor` wrote says so, for the tests to tell them apart."""
    path = tmp_path / "answers.jsonl"
    path.write_text("".join(row(number, name) for number in range(QUESTIONS) for name in ("good", "poor")))
    return path


def row(number: int, variant: str, **more: str) -> str:
    told = {"id": f"q{number}", "question": f"Question {number}?", "variant": variant, "answer": f"{variant} {number}"}
    return json.dumps({**told, **more}) + "\n"


@dataclass(frozen=True, slots=True)
class Opened:
    """`address` with its token; `root` without."""

    process: Command
    address: str

    @property
    def root(self) -> str:
        return self.address.partition("/?")[0]

    def another(self) -> str:
        """The address that is told when one was used."""
        return self.process.stdout.readline().strip()


@contextmanager
def opened(answers: Path, *more: str) -> Iterator[Opened]:
    process = Command("rate", "open", str(answers), "--no-browser", *more)
    try:
        address = process.stdout.readline().strip()
        assert address.startswith("http://127.0.0.1:"), process.communicate()[1]
        yield Opened(process, address)
    finally:
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=20)
        process.close()
