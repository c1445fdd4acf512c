"""What an operator sees at three in the morning: what needs a look, requests with trouble, a server that comes back."""

import json
import socket
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, expect

from tests.server.conftest import serve

LONG = "organisation/a-very-long-name-of-a-model-of-seventy-billion-parameters-instruct-Q4_K_M"
CONFIG = f"""\
llm:
  providers:
    - {{type: openai, model: '{LONG}', name: gone-{"and-gone-" * 6}, endpoint: 'http://127.0.0.1:9'}}
    - {{type: llamacpp, model: demo, name: demo}}
"""
WIDTHS = {"phone": 360, "desk": 1200}


def _ask(root: str) -> None:
    body = json.dumps({"messages": [{"role": "user", "content": "x"}], "max_tokens": 3}).encode()
    urllib.request.urlopen(f"{root}/v1/chat/completions", data=body, timeout=30).close()


@pytest.fixture(scope="module")
def troubled(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    config = tmp_path_factory.mktemp("trouble") / "c.yaml"
    config.write_text(CONFIG)
    with serve(config) as served:
        root = served.url.removesuffix("/v1")
        for _ in range(5):  # the first of them fail over, until the breaker opens
            _ask(root)
        yield root


@pytest.fixture(params=WIDTHS)
def page(browser: Browser, troubled: str, request: pytest.FixtureRequest) -> Iterator[Page]:
    size = {"width": WIDTHS[request.param], "height": 800}
    with browser.new_context(viewport=size) as context:  # type: ignore[arg-type]
        page = context.new_page()
        page.goto(troubled)
        page.wait_for_selector(".link.live")
        yield page


def test_what_needs_a_look_stands_first_and_leads_there(page: Page) -> None:
    page.get_by_role("link", name="breaker open").click()
    expect(page.get_by_role("heading", level=1)).to_have_text("Engines")
    expect(page.get_by_text("open", exact=True)).to_be_visible()


def test_requests_with_trouble_are_found_among_all(page: Page, troubled: str) -> None:
    page.goto(f"{troubled}/#/decisions")
    rows = page.locator("tbody tr")
    expect(rows).to_have_count(5)
    page.get_by_label("Only those with trouble").check()
    expect(rows).to_have_count(2)
    page.get_by_label("Hold the list still").check()
    page.get_by_label("Only those with trouble").uncheck()
    expect(rows).to_have_count(5)
    page.get_by_label("Only those with trouble").check()
    expect(rows).to_have_count(2)
    rows.first.get_by_role("button").click()
    expect(page.get_by_text("nothing listens there").first).to_be_visible()


def test_no_view_is_wider_than_the_window_whatever_names_there_are(page: Page, troubled: str) -> None:
    for view in ("", "engines", "routes", "decisions", "experiments", "benchmarks", "prompts", "playground", "api"):
        page.goto(f"{troubled}/#/{view}")
        expect(page.get_by_role("heading", level=1)).to_be_visible()
        assert page.evaluate("document.documentElement.scrollWidth - innerWidth") <= 0, view


def test_the_page_finds_a_server_that_was_started_anew(browser: Browser, tmp_path: Path) -> None:
    config = tmp_path / "c.yaml"
    config.write_text(CONFIG)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    with browser.new_context() as context:
        page = context.new_page()
        with serve(config, "--port", port) as served:
            page.goto(served.url.removesuffix("/v1"))
            page.wait_for_selector(".link.live")
        expect(page.get_by_text("connection lost")).to_be_visible()
        with serve(config, "--port", port):
            expect(page.locator(".link.live")).to_be_visible(timeout=20_000)
