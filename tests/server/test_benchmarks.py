"""The last benchmarks through the server."""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from pathlib import Path

import pytest

from roundhouse.history.runs import keep
from tests.server.conftest import serve


def test_kept_runs_are_listed_and_their_reports_served_without_script(tmp_path: Path) -> None:
    folder = tmp_path / "state" / "roundhouse" / "benchmarks"
    place = keep(folder, "2026-11-24T13:01:55+00:00", b"{}", {"label": "one", "points": []}, "<p>the report</p>")
    (tmp_path / "c.yaml").write_text("llm: {providers: [{type: llamacpp, model: demo}]}\n")
    with serve(tmp_path / "c.yaml") as server:
        root = server.url.removesuffix("/v1")
        with urllib.request.urlopen(f"{root}/admin/benchmarks", timeout=10) as answer:
            (found,) = json.load(answer)["benchmarks"]
        assert (found["id"], found["run"]["label"]) == (place.name, "one")
        with urllib.request.urlopen(f"{root}/admin/benchmarks/{place.name}", timeout=10) as answer:
            assert answer.read() == b"<p>the report</p>"
            policy = answer.headers["content-security-policy"]
            assert answer.headers["x-content-type-options"] == "nosniff"
        assert "script-src" not in policy
        assert "default-src 'none'" in policy
        for wrong in (
            "..",
            "..%2f..%2fexperiments.sqlite",
            "20261124T130155-ffffff",
            f"{place.name}%2f..%2f{place.name}",
        ):
            with pytest.raises(urllib.error.HTTPError) as caught:
                urllib.request.urlopen(f"{root}/admin/benchmarks/{wrong}", timeout=10)
            assert caught.value.code == 404
            caught.value.close()
