"""`roundhouse drift` at the terminal."""

from __future__ import annotations

import json
from pathlib import Path

from tests.server.drifting import drifting
from tests.server.test_operate import run


def test_a_target_that_became_slower_is_told_and_can_be_taken_for_usual(tmp_path: Path) -> None:
    with drifting(tmp_path) as backend:
        assert run("drift", "--url", backend.root).stdout == "no target has answered yet\n"
        backend.ask(100)
        lines = run("drift", "--url", backend.root).stdout.splitlines()
        assert [line.split()[:2] for line in lines[1:]] == [["chat", "failed"], ["chat", "first"], ["chat", "time"]]
        assert all("steady" in line for line in lines[1:])
        backend.slow.set()
        backend.ask(20)
        told = json.loads(run("drift", "--url", backend.root, "--json").stdout)["series"]
        (first,) = [one for one in told if one["state"] == "drifted"]
        assert (first["target"], first["metric"]) == ("chat", "first_token_s")
        assert first["usual"] < 0.1 < 0.2 < first["now"]
        assert "DRIFTED" in run("drift", "--url", backend.root).stdout
        assert run("drift", "--url", backend.root, "--relearn", "chat").returncode == 0
        assert "DRIFTED" not in run("drift", "--url", backend.root).stdout
        wrong = run("drift", "--url", backend.root, "--relearn", "nobody")
        assert wrong.returncode == 1
        assert 'there is no target "nobody"; there are chat' in wrong.stderr
