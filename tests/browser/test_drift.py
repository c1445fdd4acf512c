"""A warning on the page while it stands."""

from __future__ import annotations

from pathlib import Path

from playwright.sync_api import Browser, expect

from tests.server.drifting import drifting


def test_a_target_that_became_slower_is_warned_of_on_the_overview(browser: Browser, tmp_path: Path) -> None:
    with drifting(tmp_path) as backend, browser.new_context() as context:
        page = context.new_page()
        page.goto(backend.root)
        page.wait_for_selector(".link.live")
        expect(page.get_by_role("heading", name="Needs a look")).to_be_hidden()
        backend.ask(100)
        backend.slow.set()
        backend.ask(20)
        expect(page.get_by_role("heading", name="Needs a look")).to_be_visible(timeout=15_000)
        expect(page.get_by_role("status").filter(has_text="chat has become slower: first token")).to_be_visible()
