"""A running server joins the trace of its caller, and tells a collector."""

import json
import os
import signal
import urllib.request
from pathlib import Path

from tests.fakes.collector import attributes_of, collector
from tests.server.conftest import serve

CONFIG = """
llm:
  providers: [{{type: llamacpp, model: demo}}]
telemetry:
  history: {{enabled: false}}
  otlp: {{endpoint: "{url}", headers: {{authorization: "Bearer ${{OTLP_KEY}}"}}}}
"""
TRACE, PARENT = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"


def test_a_served_request_is_in_the_trace_of_its_caller(tmp_path: Path) -> None:
    config = tmp_path / "c.yaml"
    os.environ["OTLP_KEY"] = "key-of-the-collector"
    try:
        with collector() as found:
            config.write_text(CONFIG.format(url=found.url))
            with serve(config) as server:
                asked = {"model": "default", "max_tokens": 4, "messages": [{"role": "user", "content": "Hello?"}]}
                headers = {"content-type": "application/json", "traceparent": f"00-{TRACE}-{PARENT}-01"}
                request = urllib.request.Request(f"{server.url}/chat/completions", json.dumps(asked).encode(), headers)
                with urllib.request.urlopen(request, timeout=60) as response:
                    request_id = response.headers["x-request-id"]
                server.process.send_signal(signal.SIGINT)
                assert server.process.wait(30) == 0
    finally:
        del os.environ["OTLP_KEY"]
    (served,) = [span for span in found.spans if span.parent_span_id.hex() == PARENT]
    (attempt,) = [span for span in found.spans if span.parent_span_id == served.span_id]
    assert {span.trace_id.hex() for span in (served, attempt)} == {TRACE}
    assert attributes_of(served)["gen_ai.response.id"] == request_id
    assert attributes_of(attempt)["gen_ai.provider.name"] == "llamacpp"
    assert {headers["authorization"] for headers in found.headers} == {"Bearer key-of-the-collector"}
    assert {"gen_ai.server.request.duration"} <= {metric.name for metric in found.metrics}
