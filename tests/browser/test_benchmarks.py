"""The history of benchmarks on the page: a list, a trend, a report in a tab of its own."""

from __future__ import annotations

import os
from pathlib import Path

from playwright.sync_api import Browser, expect

from tests.browser.conftest import becomes
from tests.forge import run
from tests.server.conftest import serve


def test_runs_are_listed_with_their_trend_and_open_their_reports(browser: Browser, tmp_path: Path) -> None:
    environ = {**os.environ, "XDG_STATE_HOME": str(tmp_path / "state")}
    command = ["bench", "run", "--rate", "40", "--count", "80", "--model", "demo"]
    (tmp_path / "c.yaml").write_text("llm: {providers: [{type: llamacpp, model: demo, name: demo}]}\n")
    for label in ("before", "after"):
        named = f"{label} at http://127.0.0.1:11434"
        run(*command, "--label", named, "--config", str(tmp_path / "c.yaml"), env=environ, check=True)
    with serve(tmp_path / "c.yaml") as server, browser.new_context() as context:
        page = context.new_page()
        wrong: list[str] = []
        page.on("pageerror", lambda error: wrong.append(str(error)))
        page.goto(f"{server.url.removesuffix('/v1')}/#/benchmarks")
        page.wait_for_selector(".link.live")
        expect(page.get_by_role("row").filter(has_text="before")).to_be_visible()
        expect(page.get_by_role("row").filter(has_text="after")).to_be_visible()
        expect(page.get_by_role("heading", name="First token, from the scheduled time, median")).to_be_visible()
        expect(page.locator("canvas").first).to_be_visible()
        page.set_viewport_size({"width": 1200, "height": 800})
        becomes(page, "(t => t.scrollWidth <= t.parentElement.clientWidth)(document.querySelector('table'))")
        with context.expect_page() as opened:
            page.get_by_role("button", name="Report of after").click()
        expect(opened.value.get_by_role("heading", level=1)).to_contain_text("Benchmark")
        page.emulate_media(color_scheme="dark")
        page.set_viewport_size({"width": 390, "height": 800})
        expect(page.get_by_role("button", name="Report of after")).to_be_visible()
        becomes(page, "document.documentElement.scrollWidth <= innerWidth")
    assert wrong == []
