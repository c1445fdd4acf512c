"""Experiments are begun and ended through a running server, by an administrator alone."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tests.server.conftest import serve
from tests.server.test_operate import _post, run

CONFIG = """
llm: {providers: [{type: llamacpp, model: demo}]}
routes: {answers: llamacpp}
experiments: {e: {route: answers, arms: {one: {}, two: {}}, metric: ok}}
"""


def test_begin_promote_and_stop(tmp_path: Path) -> None:
    (tmp_path / "c.yaml").write_text(CONFIG)
    with serve(tmp_path / "c.yaml") as server:
        root = server.url.removesuffix("/v1")

        def order(what: str, **body: Any) -> tuple[int, dict[str, Any]]:
            return _post(server, f"/admin/experiments/{what}", json.dumps({"experiment": "e", **body}).encode())

        assert order("stop")[0] == 400  # never started
        assert order("start")[1]["state"] == "running"
        status, told = order("stop", promote="three")
        assert status == 400
        assert 'e has no arm "three"' in told["error"]["message"]
        assert order("stop", promote="two")[1] == {"name": "e", "state": "promoted", "winner": "two"}
        status, told = order("stop", promote="one")  # somebody else was faster
        assert status == 400
        assert 'experiment "e" is promoted' in told["error"]["message"]
        assert order("start", experiment="f")[0] == 400
        assert order("start", more=1)[0] == 400

        said = run("experiment", "stop", "e", "--url", root)
        assert said.stdout == "e is stopped\n"
        again = run("experiment", "start", "e", "--url", root, "--json")
        assert json.loads(again.stdout)["state"] == "running"
        assert run("experiment", "start", "none", "--url", root).returncode == 1
