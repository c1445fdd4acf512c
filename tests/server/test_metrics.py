"""`GET /metrics` of a running server is what Prometheus can read."""

import urllib.request

from prometheus_client.parser import text_string_to_metric_families

from tests.server.conftest import Served


def test_a_scrape_is_in_prometheus_own_format(served: Served) -> None:
    with urllib.request.urlopen(served.url.removesuffix("/v1") + "/metrics", timeout=10) as response:
        kind, text = response.headers["content-type"], response.read().decode()
    assert kind.startswith("text/plain; version=0.0.4")
    assert {"roundhouse_requests", "roundhouse_active_requests"} <= {
        family.name for family in text_string_to_metric_families(text)
    }
