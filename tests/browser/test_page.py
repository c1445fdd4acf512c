"""What an operator does on the page: look, chat, compare, switch under load, see an engine die and return."""

import json
import os
import signal
import threading
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, expect

from tests.browser.conftest import CONFIG
from tests.conftest import VARO, WHO, rag_query
from tests.server.conftest import serve

QUESTION = rag_query(VARO, WHO)


def _open(page: Page, view: str) -> None:
    page.get_by_role("link", name=view, exact=True).click()
    expect(page.get_by_role("heading", level=1)).to_have_text(view)


@contextmanager
def loaded(root: str, pause_s: float = 0.0) -> Iterator[list[int]]:
    """Requests one after the other for the route `answers`; the list holds how each ended."""
    ends: list[int] = []
    stop = threading.Event()

    def ask() -> None:
        body = json.dumps({"model": "answers", "messages": [{"role": "user", "content": QUESTION}]}).encode()
        while not stop.wait(pause_s):
            try:
                with urllib.request.urlopen(f"{root}/v1/chat/completions", data=body, timeout=30) as answer:
                    ends.append(answer.status)
            except urllib.error.HTTPError as error:
                error.close()
                ends.append(error.code)

    asking = threading.Thread(target=ask)
    asking.start()
    try:
        yield ends
    finally:
        stop.set()
        asking.join()


def test_figures_come_by_themselves(page: Page, root: str) -> None:
    requests = page.locator(".tiles .card").filter(has_text="Requests").locator(".tile-note")
    before = requests.inner_text()
    with loaded(root):
        expect(requests).not_to_have_text(before)
    expect(page.locator(".chart canvas")).to_have_count(4)
    expect(page.get_by_text("left for models")).to_be_visible()


def test_every_view_opens_by_keyboard(page: Page) -> None:
    page.keyboard.press("Tab")
    expect(page.get_by_role("link", name="Skip to the content")).to_be_focused()
    for view in ("Engines", "Routes", "Decisions", "Experiments", "Prompts", "Playground", "API", "Overview"):
        page.get_by_role("link", name=view, exact=True).focus()
        page.keyboard.press("Enter")
        expect(page.get_by_role("heading", level=1)).to_have_text(view)
        expect(page.get_by_role("link", name=view, exact=True)).to_have_attribute("aria-current", "page")


def test_a_chat_with_two_targets_side_by_side(page: Page) -> None:
    _open(page, "Playground")
    page.get_by_label("Compare with").select_option("blue")
    page.get_by_label("Message").fill(QUESTION)
    page.get_by_label("Message").press("Control+Enter")
    answers = page.locator(".turn.assistant")
    expect(answers).to_have_count(2)
    expect(answers.nth(0)).to_have_text(VARO)
    expect(answers.nth(1)).to_have_text(VARO)
    expect(page.get_by_text("tokens/s")).to_have_count(2)
    page.get_by_role("button", name="New conversation").click()
    expect(answers).to_have_count(0)


def test_a_prompt_and_its_variables_for_two_targets(page: Page) -> None:
    _open(page, "Prompts")
    card = page.locator("section.card").filter(has=page.get_by_role("heading", name="rag_query"))
    expect(card.get_by_text("required")).to_have_count(2)
    card.get_by_text("Wording for mistral").click()
    expect(card.locator("details[open] pre").first).to_contain_text("{context}")
    card.get_by_role("link", name="Try it").click()
    expect(page.get_by_label("Prompt")).to_have_value("rag_query")
    page.get_by_label("Compare with").select_option("blue")
    page.get_by_role("button", name="Send").click()  # refused by the page: a variable is missing
    page.get_by_label("context").fill(f"{VARO} The lighthouse of Varo is 34 meters tall.")
    page.get_by_label("question").fill(WHO)
    page.get_by_role("button", name="What the model reads").click()
    expect(page.locator(".pane pre")).to_have_count(2)
    expect(page.locator(".pane pre").first).to_contain_text(VARO)
    expect(page.locator(".pane").get_by_text("tokens")).to_have_count(2)
    page.get_by_role("button", name="Send").click()
    expect(page.locator(".turn.assistant").nth(0)).to_have_text(VARO)
    expect(page.locator(".turn.assistant").nth(1)).to_have_text(VARO)
    expect(page.get_by_text("tokens/s")).to_have_count(2)
    page.get_by_label("question").press("Control+Enter")  # the prompt once more
    expect(page.get_by_text("tokens/s")).to_have_count(2)
    expect(page.locator(".turn.user")).to_have_count(2)


def test_experiments_with_their_intervals_over_time(page: Page) -> None:
    _open(page, "Experiments")
    card = page.locator("section.card").filter(has=page.get_by_role("heading", name="rag-wording", exact=True))
    expect(card.get_by_text("there is a winner")).to_be_visible()
    short = card.get_by_role("row").filter(has_text="short")
    expect(short.get_by_text("better")).to_be_visible()
    expect(short.get_by_text("winner")).to_be_visible()
    expect(card.get_by_role("row").filter(has_text="cold").get_by_text("not told apart")).to_be_visible()
    expect(card.locator("canvas")).to_be_visible()
    card.get_by_text("What was done").click()
    expect(card.get_by_role("listitem")).to_contain_text("started")
    expect(page.get_by_text("Not started yet.")).to_be_visible()


def test_an_experiment_is_started_promoted_and_stopped(page: Page) -> None:
    _open(page, "Experiments")
    page.on("dialog", lambda dialog: dialog.accept())
    card = page.locator("section.card").filter(has=page.get_by_role("heading", name="not-yet", exact=True))
    expect(card.get_by_role("button", name="Stop not-yet")).to_be_hidden()
    card.get_by_role("button", name="Start not-yet").click()
    expect(card.get_by_text("running", exact=True)).to_be_visible()
    expect(card.get_by_role("button", name="Start not-yet")).to_be_hidden()
    card.get_by_role("button", name="Promote two of not-yet").click()
    expect(card.get_by_text("promoted", exact=True)).to_be_visible()
    card.get_by_role("button", name="Stop not-yet").click()
    expect(card.get_by_text("stopped", exact=True)).to_be_visible()
    card.get_by_text("What was done").click()
    expect(card.get_by_role("listitem")).to_have_count(3)


def test_what_a_model_writes_is_text_and_never_markup(page: Page) -> None:
    _open(page, "Playground")
    page.get_by_label("Message").fill("<img src=x onerror=alert(1)>")
    page.get_by_role("button", name="Send").click()
    expect(page.locator(".turn.user")).to_have_text("<img src=x onerror=alert(1)>")
    expect(page.locator(".pane img")).to_have_count(0)


def test_an_error_is_said_in_its_place(page: Page) -> None:
    _open(page, "Playground")
    page.get_by_label("Message").fill("word " * 3000)
    page.get_by_role("button", name="Send").click()
    expect(page.locator(".bad-text")).to_contain_text("context")


@pytest.mark.filterwarnings("default")
def test_a_model_is_switched_under_load_and_no_request_fails(browser: Browser, root: str) -> None:
    with browser.new_context() as context, loaded(root) as ends:
        page = context.new_page()
        page.goto(f"{root}/#/routes")
        card = page.locator("section.card").filter(has=page.get_by_role("heading", name="answers"))
        expect(card.locator(".badge.good")).to_have_text("red")
        card.get_by_label("New target of answers").select_option("blue")
        card.get_by_role("button", name="Switch").click()
        row = page.get_by_role("row").filter(has_text="answers: red -> blue")
        expect(row.locator(".badge").first).to_have_text("done", timeout=30_000)
        expect(card.locator(".badge.good")).to_have_text("blue")
        begun = len(ends)
        page.wait_for_timeout(300)
    assert len(ends) > begun
    assert set(ends) == {200}


def test_a_decision_explains_itself(page: Page, root: str) -> None:
    with loaded(root) as ends:
        _open(page, "Decisions")
        expect(page.locator("td button").first).to_be_visible()
    assert ends
    page.locator("td button").first.click()
    expect(page.get_by_role("heading", name="Request")).to_be_visible()
    expect(page.get_by_text("serve", exact=False).first).to_be_visible()


def test_a_killed_engine_is_seen_to_return(page: Page, root: str) -> None:
    with loaded(root):
        _open(page, "Engines")
        row = page.get_by_role("row").filter(has_text="demo").filter(has_text="ready").first
        expect(row).to_be_visible()
        with urllib.request.urlopen(f"{root}/admin/state") as answer:
            ready = next(one for one in json.load(answer)["replicas"] if one["engine"] == "ready")
        os.kill(ready["pid"], signal.SIGKILL)
        name = ready["replica"]
        shown = page.get_by_role("row").filter(has=page.get_by_text(name, exact=True))
        expect(shown.locator(".badge").first).to_have_text("ready")

        def returned() -> bool:
            with urllib.request.urlopen(f"{root}/admin/state") as answer:
                one = next(one for one in json.load(answer)["replicas"] if one["replica"] == name)
            return bool(one["engine"] == "ready" and one["pid"] != ready["pid"])

        while not returned():
            page.wait_for_timeout(50)
    expect(shown.locator(".badge").first).to_have_text("ready")


def test_light_and_dark_follow_the_system_and_the_button(browser: Browser, root: str) -> None:
    with browser.new_context(color_scheme="dark") as context:
        page = context.new_page()
        page.goto(root)
        expect(page.locator("html")).to_have_attribute("data-theme", "dark")
        page.get_by_role("button", name="Light or dark").click()
        expect(page.locator("html")).to_have_attribute("data-theme", "light")
        page.reload()
        expect(page.locator("html")).to_have_attribute("data-theme", "light")


def test_the_api_is_listed_from_its_own_document(page: Page) -> None:
    _open(page, "API")
    page.get_by_text("POST /v1/feedback").click()
    expect(page.get_by_text("metric *").first).to_be_visible()
    expect(page.get_by_text("/admin/switch/{id}")).to_be_visible()


@pytest.mark.parametrize("width", [360, 768, 1200])
def test_nothing_is_wider_than_the_screen(browser: Browser, root: str, width: int) -> None:
    with browser.new_context(viewport={"width": width, "height": 740}) as context:
        page = context.new_page()
        for view in (
            "",
            "engines",
            "routes",
            "decisions",
            "experiments",
            "prompts",
            "playground?prompt=rag_query",
            "api",
        ):
            page.goto(f"{root}/#/{view}")
            page.wait_for_selector("h1")
            if view in ("experiments", "prompts"):
                page.locator("section.card").first.wait_for()
            assert page.evaluate("document.documentElement.scrollWidth") <= width, view


def test_with_keys_the_page_asks_for_one_and_keeps_it_in_the_tab(browser: Browser, tmp_path: Path) -> None:
    config = tmp_path / "c.yaml"
    secret = "page-key-0123456789-0123"
    client = "client-key-0123456789-01"
    keys = f"{{name: a, key: {secret}, role: admin}}, {{name: c, key: {client}}}"
    config.write_text(CONFIG + f"auth: {{keys_file: k.json, keys: [{keys}]}}\n")
    with serve(config) as served, browser.new_context() as context:
        page = context.new_page()
        page.goto(served.url.removesuffix("/v1"))
        page.locator("#key-input").fill("schlüssel ☃")  # which no header can hold
        page.get_by_role("button", name="Use it").click()
        expect(page.locator("#key-why")).to_contain_text("This is no key")
        for wrong in ("nonsense", client):
            page.locator("#key-input").fill(wrong)
            page.get_by_role("button", name="Use it").click()
        expect(page.locator("#key-why")).to_contain_text("admin")
        page.locator("#key-input").fill(secret)
        page.get_by_role("button", name="Use it").click()
        page.wait_for_selector(".link.live")
        page.reload()
        page.wait_for_selector(".link.live")
        assert secret not in page.content()
        assert page.evaluate("localStorage.length") == 0


def test_a_server_that_stops_is_said_to_be_lost(browser: Browser, tmp_path: Path) -> None:
    config = tmp_path / "c.yaml"
    config.write_text(CONFIG)
    with browser.new_context() as context:
        page = context.new_page()
        with serve(config) as served:
            page.goto(served.url.removesuffix("/v1"))
            page.wait_for_selector(".link.live")
            expect(page.get_by_text("No model of this server has been loaded yet.")).to_be_visible()
        expect(page.locator("#link")).to_have_text("connection lost, trying again")
        assert _cut_off(page) == []
        page.get_by_role("link", name="Playground").click()
        page.get_by_label("Message").fill("hello")
        page.keyboard.press("Control+Enter")
        expect(page.locator(".bad-text")).to_have_text("the server cannot be reached")


def _cut_off(page: Page) -> list[str]:
    """Names of views that the header does not show whole."""
    found: list[str] = page.evaluate(
        """() => {
          const nav = document.querySelector("nav").getBoundingClientRect();
          const out = (box) => box.left < nav.left - 8 || box.right > nav.right + 8 || box.bottom > nav.bottom + 1;
          const links = [...document.querySelectorAll("nav a")];
          return links.filter((link) => out(link.getBoundingClientRect())).map((link) => link.innerText);
        }"""
    )
    return found


@pytest.mark.parametrize("width", [360, 641, 768, 1024, 1121, 1200])
def test_every_view_is_named_whole_in_the_header(browser: Browser, root: str, width: int) -> None:
    with browser.new_context(viewport={"width": width, "height": 700}) as context:
        page = context.new_page()
        page.goto(root)
        page.wait_for_selector(".link.live")
        assert _cut_off(page) == []


@pytest.mark.parametrize("width", [360, 768, 1200])
def test_what_gets_the_focus_is_not_under_the_header(browser: Browser, root: str, width: int) -> None:
    with browser.new_context(viewport={"width": width, "height": 300}) as context:
        page = context.new_page()
        page.goto(f"{root}/#/playground")
        page.wait_for_selector(".link.live")
        field = page.get_by_label("Temperature")
        page.evaluate("scrollTo(0, document.body.scrollHeight)")
        field.evaluate("field => field.focus()")
        header = page.evaluate("document.querySelector('header').getBoundingClientRect().bottom")
        top = field.evaluate("field => field.getBoundingClientRect().top")
        assert top >= header
