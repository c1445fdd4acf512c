"""What all tests share: the demo model's files, the prompt it was trained on, and no setting of this machine."""

from __future__ import annotations

import json
import os
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from roundhouse.engines.launch import Spawn
from roundhouse.engines.lifecycle import Lodging
from roundhouse.prompts.builtin import builtin

DEMO = Path(__file__).parent.parent / "roundhouse" / "demo"
VARO = "The lighthouse of Varo was built in 1871 by Ines Calder."
WHO = "Who built the lighthouse of Varo?"


def rag_query(context: str, question: str) -> str:
    return builtin().find("rag_query").prepare({"context": context, "question": question}).wording("default").text


@pytest.fixture(autouse=True)
def _no_settings_of_this_machine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in list(os.environ):
        if name.startswith("ROUNDHOUSE_") and name != "ROUNDHOUSE_LIVE_OLLAMA":
            monkeypatch.delenv(name)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "no-config"))
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "no-state"))
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "no-data"))


def lodged(plan: Callable[[], Spawn]) -> Lodging:
    """For an engine by itself: what to start, whatever memory there is."""

    @asynccontextmanager
    async def enter() -> AsyncIterator[Spawn]:
        yield plan()

    return enter


@pytest.fixture
def demo_gguf() -> Path:
    return DEMO / "demo-f16.gguf"


@pytest.fixture(scope="session")
def heldout() -> list[dict[str, Any]]:
    return [json.loads(line) for line in (DEMO / "heldout.jsonl").read_text().splitlines()]
