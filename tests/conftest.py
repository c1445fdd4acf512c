"""What all tests share: the demo model's files, the prompt it was trained on, and no setting of this machine."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import hypothesis
import pytest

from roundhouse.database import Address, Place
from roundhouse.engines.launch import Spawn
from roundhouse.engines.lifecycle import Lodging
from roundhouse.prompts.builtin import builtin
from tests.postgres import PASSWORD, Postgres, missing, postgres_server

# Threads of OpenMP spin while they wait for each other: where several processes test at the same time, many times as
# long as they compute. Read when torch or numpy is first imported, here and in the processes that are started.
os.environ["OMP_NUM_THREADS"] = "1"

# How long an example takes is no property of ours on a machine that others use as well.
hypothesis.settings.register_profile("anywhere", deadline=None)
hypothesis.settings.load_profile("anywhere")

DEMO = Path(__file__).parent.parent / "roundhouse" / "demo"
VARO = "The lighthouse of Varo was built in 1871 by Ines Calder."
WHO = "Who built the lighthouse of Varo?"


def rag_query(context: str, question: str) -> str:
    return builtin().find("rag_query").prepare({"context": context, "question": question}).wording("default").text


def pytest_configure(config: pytest.Config) -> None:
    """Before any fixture, whatever its scope: no test and nothing it starts writes into the state of its user."""
    apart = tempfile.TemporaryDirectory(prefix="roundhouse-tests-", ignore_cleanup_errors=True)
    config.add_cleanup(apart.cleanup)
    for name in ("CONFIG", "STATE", "DATA"):
        os.environ[f"XDG_{name}_HOME"] = str(Path(apart.name) / f"no-{name.lower()}")


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


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """`-m state`: whatever runs over a place of either kind."""
    for item in items:
        if {"place", "postgres"} & set(getattr(item, "fixturenames", ())):
            item.add_marker(pytest.mark.state)


@pytest.fixture(scope="session")
def postgres() -> Iterator[Postgres]:
    """A PostgreSQL that runs; whoever stops it starts it again."""
    if why := missing():
        if os.environ.get("NEEDS_POSTGRES"):
            pytest.fail(why)
        pytest.skip(why)
    with postgres_server() as server:
        yield server


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.postgres)])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Place:
    """Where state lies: a file, and a database that was never used. What needs it runs over both."""
    if request.param == "sqlite":
        return tmp_path / "state" / "x.sqlite"
    server: Postgres = request.getfixturevalue("postgres")
    return Address(server.fresh(), PASSWORD)
