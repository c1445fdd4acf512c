"""A real headless Chromium on the page of a real server. Without a browser these tests are skipped, and say so."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from random import Random

import pytest
from playwright.sync_api import Browser, Page, sync_playwright

from roundhouse.config import load_text
from roundhouse.experiments.store import Exposure, Outcome, Store
from roundhouse.gateway.trials import designs_of
from roundhouse.prompts.builtin import builtin
from tests.server.conftest import Served, serve

CONFIG = """\
llm:
  providers:
    - {type: llamacpp, model: demo, name: red}
    - {type: llamacpp, model: demo, name: blue}
  fallback_order: [red]
routes: {answers: [red, blue]}
experiments:
  rag-wording:
    prompt: rag_query
    arms: {current: {}, short: {settings: {temperature: 0}}, cold: {settings: {temperature: 0.1}}}
    metric: correct
    guardrails: {total_s: 0.5}
  not-yet: {route: answers, arms: {one: {}, two: {}}, metric: total_s, goal: lower}
"""
DAYS_S = 3 * 86_400.0


def experimented(state: Path) -> None:
    """Three days of an experiment in which one arm is better and one is not told apart."""
    design = designs_of(load_text(CONFIG), builtin())["rag-wording"]
    store, random = Store(state / "roundhouse" / "experiments.sqlite"), Random(7)
    began = time.time() - DAYS_S
    store.start(design, began)
    rates = {"current": 0.7, "short": 0.83, "cold": 0.71}
    exposures, outcomes = [], []
    for number in range(2400):
        arm = ("current", "short", "cold")[number % 3]
        at = began + DAYS_S * number / 2400
        exposures.append(Exposure(number, design.name, number, arm, arm, "1:demo", 1 / 3, 0.0, at))
        outcomes.append(Outcome(number, number, "correct", float(random.random() < rates[arm]), at))
        outcomes.append(Outcome(number, number, "total_s", random.uniform(0.1, 0.3), at))
    store.write(exposures, outcomes)
    store.close()


def becomes(page: Page, expression: str) -> None:
    """Wait until it is true. Playwright's own wait evaluates it within the page, which the page's policy forbids."""
    while not page.evaluate(expression):
        page.wait_for_timeout(20)


def chromium() -> str | None:
    """Debian's, or whatever $CHROMIUM names."""
    return os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("chromium-browser")


@pytest.fixture(scope="package")
def browser() -> Iterator[Browser]:
    program = chromium()
    if program is None:
        pytest.skip("there is no Chromium here; `make browser` installs Debian's")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program, args=["--no-sandbox", "--disable-gpu"])
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    folder = tmp_path_factory.mktemp("page")
    (folder / "c.yaml").write_text(CONFIG)
    experimented(folder / "state")  # where `serve` has the server keep it
    with serve(folder / "c.yaml") as server:
        yield server


@pytest.fixture
def root(served: Served) -> str:
    return served.url.removesuffix("/v1")


@pytest.fixture
def page(browser: Browser, root: str) -> Iterator[Page]:
    """Open at the overview; any error in it, and any request to another host, fails the test."""
    with browser.new_context() as context:
        page = context.new_page()
        wrong: list[str] = []
        page.on("pageerror", lambda error: wrong.append(str(error)))
        page.on("request", lambda request: wrong.append(request.url) if not request.url.startswith(root) else None)
        page.on("console", lambda said: wrong.append(said.text) if "Content Security Policy" in said.text else None)
        page.goto(root)
        page.wait_for_selector(".link.live")
        yield page
        assert wrong == []
