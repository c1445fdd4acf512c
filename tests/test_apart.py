"""Neither tests nor benchmarks write into the state of whoever runs them."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

_ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="session")
def state_of_the_session() -> str:
    """What a fixture sees that is older than any test."""
    return os.environ["XDG_STATE_HOME"]


def test_fixtures_of_any_scope_live_apart(state_of_the_session: str, tmp_path: Path) -> None:
    assert Path(state_of_the_session).parent.name.startswith("roundhouse-tests-")
    assert os.environ["XDG_STATE_HOME"] == str(tmp_path / "no-state")


def test_benchmarks_and_what_they_start_share_a_state_that_is_gone_afterwards(tmp_path: Path) -> None:
    code = """
import os, subprocess, sys
from benchmarks.apart import apart
with apart():
    print(os.environ.get("ROUNDHOUSE_STATE__URL"), flush=True)
    subprocess.run(["sh", "-c", "touch $XDG_STATE_HOME/x; ls -d $XDG_STATE_HOME/x"], check=True)
"""
    environ = {**os.environ, "XDG_STATE_HOME": str(tmp_path), "ROUNDHOUSE_STATE__URL": "postgresql://shared/house"}
    command = [sys.executable, "-c", code]
    ended = subprocess.run(command, cwd=_ROOT, env=environ, check=True, capture_output=True, text=True)
    setting, written = ended.stdout.splitlines()
    assert setting == "None"
    assert not Path(written).parent.exists()
    assert list(tmp_path.iterdir()) == []


def test_a_benchmark_leaves_the_state_of_its_user_alone(tmp_path: Path) -> None:
    environ = {name: value for name, value in os.environ.items() if not name.startswith("XDG_")}
    command = [sys.executable, "-m", "benchmarks", "startup"]
    ended = subprocess.run(command, cwd=_ROOT, env={**environ, "HOME": str(tmp_path)}, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr
    assert "server memory at rest" in ended.stdout
    assert list(tmp_path.rglob("*roundhouse*")) == []
