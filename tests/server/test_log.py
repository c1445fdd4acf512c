"""The log of a running server: every line is JSON, and texts are in it only where that is asked for."""

import json
import signal
import urllib.request
from pathlib import Path

from tests.server.conftest import Served, serve

SECRET = "correct-horse"
QUESTION = "Ask ann@example.org what lies in Varo?"
CONFIG = """
llm:
  providers:
    - {{type: openai, endpoint: "http://127.0.0.1:9/v1", model: none, name: gone}}
    - {{type: llamacpp, model: demo, name: demo}}
  prompt_templates: {{ask: "Question: {{question}}"}}
routes: {{answers: [gone, demo]}}
telemetry:
  history: {{enabled: false}}
  log: {{format: json, {log}}}
"""


def _config(tmp_path: Path, log: str) -> Path:
    config = tmp_path / "c.yaml"
    config.write_text(CONFIG.format(log=log))
    return config


def _ask(server: Served) -> None:
    asked = {"model": "answers", "max_tokens": 4, "messages": [{"role": "user", "content": f"password: {SECRET}"}],
             "roundhouse": {"prompt": "ask", "variables": {"question": QUESTION}}}  # fmt: skip
    headers = {"content-type": "application/json"}
    request = urllib.request.Request(f"{server.url}/chat/completions", json.dumps(asked).encode(), headers)
    with urllib.request.urlopen(request, timeout=60) as response:
        assert response.status == 200


def _ended(server: Served) -> list[dict]:
    """All lines of a server that is told to stop."""
    server.process.send_signal(signal.SIGINT)
    assert server.process.stderr is not None
    return [json.loads(line) for line in server.process.stderr]


def test_a_failover_and_its_request_are_lines_of_json_that_name_the_request(tmp_path: Path) -> None:
    with serve(_config(tmp_path, "requests: true")) as server:
        _ask(server)
        lines = _ended(server)
    (failed,) = [line for line in lines if line.get("code")]
    (ended,) = [line for line in lines if line["logger"] == "roundhouse.requests"]
    assert (failed["level"], failed["target"]) == ("WARNING", "gone")
    assert failed["request_id"] == ended["request_id"]
    assert (ended["route"], ended["target"], ended["outcome"]) == ("answers", "demo", "ok")
    assert ended["failed"] == [f"gone: {failed['code']}"]
    assert ended["output_tokens"] > 0
    assert "Varo" not in json.dumps(lines)


def test_texts_are_written_where_that_is_switched_on_without_what_the_rules_find(tmp_path: Path) -> None:
    with serve(_config(tmp_path, "content: true, redact_also: {place: Varo}")) as server:
        _ask(server)
        lines = _ended(server)
    (texts,) = [line for line in lines if "answered" in line]
    assert texts["values"] == {"question": "Ask [email] what lies in [place]?"}
    assert texts["asked"] == [{"role": "user", "text": "[secret]"}]
    assert texts["answered"]
    assert SECRET not in json.dumps(lines)


def test_a_reload_changes_how_it_is_written(tmp_path: Path) -> None:
    config = _config(tmp_path, "requests: true")
    with serve(config) as server:
        _ask(server)
        config.write_text(CONFIG.format(log="requests: false"))
        urllib.request.urlopen(
            urllib.request.Request(f"{server.url.removesuffix('/v1')}/admin/reload", b"", method="POST"), timeout=30
        ).close()
        _ask(server)
        lines = _ended(server)
    assert len([line for line in lines if line["logger"] == "roundhouse.requests"]) == 1
