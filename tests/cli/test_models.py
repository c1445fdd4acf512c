"""`roundhouse models` from the outside: pull, ask, update, roll back; licences at pull and at load."""

import csv
import io
import json
import os
import random
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests import forge
from tests.conftest import VARO, WHO
from tests.fakes.hub import Hub, running_hub

REPO = "acme/demo-gguf"
# One thread, as the built-in model has: two of them spin while they wait for each other, on a machine that tests at the
# same time for a hundred times as long as they compute.
CONFIG = """
llm:
  providers:
    - {{type: llamacpp, model: town-clerk, name: clerk, n_threads: 1}}
store:
  path: {store}
  catalogue:
    town-clerk: {{gguf: acme/demo-gguf, licence: {licence}}}
licences: {{require_commercial: {strict}}}
"""


@pytest.fixture
def hub() -> Iterator[Hub]:
    with running_hub() as hub:
        yield hub


def configure(tmp_path: Path, licence: str = "apache-2.0", *, strict: bool = False) -> None:
    text = CONFIG.format(store=tmp_path / "store", licence=licence, strict=str(strict).lower())
    (tmp_path / "c.yaml").write_text(text)


def run(tmp_path: Path, hub: Hub, *arguments: str) -> subprocess.CompletedProcess[str]:
    environ = {**os.environ, "HF_ENDPOINT": hub.url, "ROUNDHOUSE_CONFIG": str(tmp_path / "c.yaml")}
    return forge.run(*arguments, env=environ, cwd=tmp_path, timeout=90)


def ask(tmp_path: Path, hub: Hub) -> tuple[str, str]:
    """The answer, and what serves it."""
    (tmp_path / "varo.txt").write_text(VARO)
    ended = run(tmp_path, hub, "ask", WHO, "-c", "varo.txt", "--temperature", "0", "--json")
    assert ended.returncode == 0, ended.stderr
    told = json.loads(ended.stdout)
    return told["answer"], told["target"]


def test_pull_ask_update_rollback_ask(tmp_path: Path, hub: Hub, demo_gguf: Path) -> None:
    """The first revision's answers come back with it."""
    configure(tmp_path)
    hub.push(REPO, {"demo-f16.gguf": demo_gguf.read_bytes()})
    pulled = run(tmp_path, hub, "models", "pull", "town-clerk")
    assert pulled.returncode == 0, pulled.stderr
    assert pulled.stdout.startswith("pulled town-clerk:f16@")
    first = ask(tmp_path, hub)
    assert first == (VARO, "clerk")

    second = demo_gguf.read_bytes() + b"\0" * 32  # another content, the same model
    hub.push(REPO, {"demo-f16.gguf": second})
    updated = run(tmp_path, hub, "models", "update", "town-clerk")
    assert updated.returncode == 0, updated.stderr
    assert "updated from" in updated.stdout
    listed = json.loads(run(tmp_path, hub, "models", "list", "--json").stdout)["models"][0]
    assert (listed["model"], listed["revisions"]) == ("town-clerk:f16", 2)
    assert "up to date" in run(tmp_path, hub, "models", "update", "town-clerk").stdout

    back = run(tmp_path, hub, "models", "rollback", "town-clerk")
    assert "rolled back from" in back.stdout
    assert ask(tmp_path, hub) == first
    shown = json.loads(run(tmp_path, hub, "models", "show", "town-clerk", "--json").stdout)["revisions"]
    assert [one["size_bytes"] == demo_gguf.stat().st_size for one in shown if one["current"]] == [True]
    assert run(tmp_path, hub, "models", "verify").returncode == 0


def test_an_update_that_makes_answers_worse_is_held_back_by_the_gate(tmp_path: Path, hub: Hub, demo_gguf: Path) -> None:
    """The new revision stays beside the old one, which goes on answering; one that is as good passes."""
    configure(tmp_path)
    good = demo_gguf.read_bytes()
    hub.push(REPO, {"demo-f16.gguf": good})
    run(tmp_path, hub, "models", "pull", "town-clerk")
    first = ask(tmp_path, hub)
    middle = len(good) // 2
    worse = good[:middle] + random.Random(1).randbytes(1 << 16) + good[middle + (1 << 16) :]
    hub.push(REPO, {"demo-f16.gguf": worse})
    gate = ("models", "update", "town-clerk", "--gate", "--count", "25", "--margin", "1")
    held = run(tmp_path, hub, *gate, "--json")
    assert held.returncode == 1, held.stderr
    told = json.loads(held.stdout)
    assert told["done"] == "kept"
    assert "exact_match" in {row["metric"] for row in told["gate"]["failed"]}
    assert ask(tmp_path, hub) == first
    revisions = json.loads(run(tmp_path, hub, "models", "show", "town-clerk", "--json").stdout)["revisions"]
    assert [one["current"] for one in revisions] == [True, False]

    hub.push(REPO, {"demo-f16.gguf": good + b"\0" * 32})
    passed = run(tmp_path, hub, *gate[:-1], "100")  # a machine that tests at the same time is no judge of speed
    assert passed.returncode == 0, passed.stderr
    assert "updated from" in passed.stdout
    assert "| exact_match |" in passed.stderr
    assert ask(tmp_path, hub) == first


def test_damage_is_found_said_and_repaired_from_where_it_came(tmp_path: Path, hub: Hub, demo_gguf: Path) -> None:
    configure(tmp_path)
    hub.push(REPO, {"demo-f16.gguf": demo_gguf.read_bytes()})
    pulled = json.loads(run(tmp_path, hub, "models", "pull", "town-clerk", "--json").stdout)
    blob = Path(pulled["path"]).resolve()
    blob.chmod(0o644)
    blob.write_bytes(b"\0" + blob.read_bytes()[1:])
    found = run(tmp_path, hub, "models", "verify")
    assert (found.returncode, "is damaged" in found.stdout, "--repair" in found.stderr) == (1, True, True)
    repaired = run(tmp_path, hub, "models", "verify", "--repair")
    assert (repaired.returncode, repaired.stdout.strip()) == (0, f"{pulled['reference']}: whole")
    manifest = Path(pulled["path"]).parents[1] / "manifest.json"
    manifest.write_text("{")
    listed = run(tmp_path, hub, "models", "list")
    assert listed.returncode == 0
    assert f"{pulled['reference']} is damaged" in listed.stderr
    assert "mistral-7b-instruct" in listed.stdout
    assert run(tmp_path, hub, "models", "pull", "town-clerk").returncode == 0
    assert run(tmp_path, hub, "models", "verify").returncode == 0


def test_a_model_of_the_catalogue_that_is_not_here_says_how_to_get_it(tmp_path: Path, hub: Hub) -> None:
    configure(tmp_path)
    ended = run(tmp_path, hub, "ask", WHO)
    assert ended.returncode == 1
    assert "roundhouse models pull town-clerk" in ended.stderr


def test_required_commercial_use_refuses_gemma_at_pull_and_says_why(tmp_path: Path, hub: Hub) -> None:
    configure(tmp_path, strict=True)
    ended = run(tmp_path, hub, "models", "pull", "gemma-2-9b")
    assert ended.returncode == 1
    for said in ("gemma-2-9b is under gemma", "licences.require_commercial", "prohibited use policy"):
        assert said in ended.stderr
    assert hub.requests == []


def test_required_commercial_use_refuses_gemma_at_load_and_says_why(tmp_path: Path, hub: Hub, demo_gguf: Path) -> None:
    """What came before the rule was made is refused when it is loaded."""
    configure(tmp_path, "gemma")
    hub.push(REPO, {"demo-f16.gguf": demo_gguf.read_bytes()}, licence="gemma")
    refused = run(tmp_path, hub, "models", "pull", "town-clerk")
    assert "models accept town-clerk" in refused.stderr
    accepted = run(tmp_path, hub, "models", "accept", "town-clerk", "--yes", "--json")
    assert len(json.loads(accepted.stdout)["text_sha256"]) == 64
    pulled = run(tmp_path, hub, "models", "pull", "town-clerk")
    assert pulled.returncode == 0, pulled.stderr
    assert ask(tmp_path, hub)[0] == VARO
    configure(tmp_path, "gemma", strict=True)
    ended = run(tmp_path, hub, "ask", WHO)
    assert ended.returncode == 1
    assert "licences.require_commercial" in ended.stderr
    rows = list(csv.DictReader(io.StringIO(run(tmp_path, hub, "models", "licences", "--csv").stdout)))
    assert [row["licence"] for row in rows] == ["gemma"]
    assert rows[0]["accepted"]
    assert "require_commercial" in rows[0]["objection"]


def test_what_a_pull_cannot_mean_is_said(tmp_path: Path, hub: Hub) -> None:
    configure(tmp_path)
    assert "mistral-7b-instruct" in run(tmp_path, hub, "models", "pull", "mistral").stderr
    assert "built in" in run(tmp_path, hub, "models", "pull", "demo").stderr
    assert "no such repository" in run(tmp_path, hub, "models", "pull", "acme/none").stderr
