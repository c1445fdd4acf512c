"""What a server keeps of its requests, as `roundhouse stats` tells it."""

import json
import urllib.request
from pathlib import Path

from tests.forge import run
from tests.server.conftest import serve

CONFIG = """
llm:
  providers: [{type: llamacpp, model: demo, name: demo}]
  prompt_templates: {ask: "Question: {question}"}
telemetry:
  history: {path: kept.sqlite}
"""


def stats(*arguments: str) -> str:
    return run("stats", *arguments, check=True).stdout


def test_a_request_over_the_wire_is_in_the_history_when_the_server_has_ended(tmp_path: Path) -> None:
    config, secret = tmp_path / "c.yaml", "a word that nobody else may read"
    config.write_text(CONFIG)
    asked = {"model": "default", "max_tokens": 4, "messages": [],
             "roundhouse": {"prompt": "ask", "variables": {"question": secret}}}  # fmt: skip
    with serve(config) as server:
        for _ in range(2):
            data = json.dumps(asked).encode()
            request = urllib.request.Request(
                f"{server.url}/chat/completions", data, {"content-type": "application/json"}
            )
            with urllib.request.urlopen(request, timeout=60) as response:
                assert response.status == 200
    told = json.loads(stats("--config", str(config), "--by", "target", "--by", "prompt", "--by", "variant", "--json"))
    (group,) = told["groups"]
    assert group["names"]["target"] == "demo"
    assert group["names"]["prompt"].startswith("ask@")
    assert group["names"]["variant"]
    assert (group["requests"], group["errors"], group["output_tokens"]) == (2, 0, 8)
    assert group["metrics"]["first_token"]["p50"] > 0
    assert "demo" in stats("--config", str(config))
    rows = stats("export", "-", "--config", str(config)).splitlines()
    assert len(rows) == 3
    assert secret.encode() not in b"".join(one.read_bytes() for one in tmp_path.glob("kept.sqlite*"))
