"""What a rater does on the page, in a real headless Chromium: by keyboard, on a phone, in the dark, after a kill."""

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, Page, expect

from roundhouse.rating.status import status_of
from roundhouse.rating.store import Store
from tests.browser.conftest import becomes
from tests.rating.conftest import Opened, opened, row

# Of an element: its text, and the first thing behind it that is not see-through.
COLOURS = """element => {
  let behind = element;
  while (getComputedStyle(behind).backgroundColor === "rgba(0, 0, 0, 0)") behind = behind.parentElement;
  return [getComputedStyle(element).color, getComputedStyle(behind).backgroundColor];
}"""


@contextmanager
def visiting(browser: Browser, page: Opened, **look: Any) -> Iterator[Page]:
    """The page as it opens; an error in it, or a request to another host, fails the test."""
    with browser.new_context(**look) as context:
        tab = context.new_page()
        wrong: list[str] = []
        tab.on("pageerror", lambda error: wrong.append(str(error)))
        tab.on("request", lambda request: wrong.append(request.url) if not request.url.startswith(page.root) else None)
        tab.on("console", lambda said: wrong.append(said.text) if "Content Security Policy" in said.text else None)
        tab.goto(page.address)
        yield tab
        assert wrong == []


def sit(tab: Page, name: str) -> None:
    tab.get_by_label("Your name").fill(name)
    tab.keyboard.press("Enter")
    expect(tab.locator("#far")).to_contain_text("of")


def better(tab: Page) -> str:
    """The key for what `good` wrote."""
    return "1" if tab.locator("#left").inner_text().startswith("good") else "2"


def press(tab: Page, key: str, done: int) -> None:
    tab.keyboard.press(key)
    expect(tab.locator("#far")).to_have_text(f"{done} of 6")


def told(answers: Path) -> dict[str, Any]:
    store = Store(answers.with_suffix(".ratings"))
    try:
        return status_of(store).as_dict()
    finally:
        store.close()


def test_a_rater_judges_all_by_keyboard_and_the_better_one_wins(browser: Browser, answers: Path) -> None:
    """Verdicts, tie, both bad, skip, note, undo; then the skipped one again."""
    with opened(answers) as page, visiting(browser, page) as tab:
        sit(tab, "Ada")
        assert "token" not in tab.url
        press(tab, better(tab), 1)
        tab.keyboard.press("n")
        expect(tab.get_by_label("Note")).to_be_focused()
        tab.keyboard.type("12t: keys are letters here")
        tab.keyboard.press("Escape")
        press(tab, "t", 2)
        expect(tab.get_by_label("Note")).to_be_hidden()
        press(tab, "u", 1)
        expect(tab.get_by_label("Note")).to_have_value("12t: keys are letters here")
        expect(tab.get_by_text("Taken back")).to_be_visible()
        press(tab, better(tab), 2)
        press(tab, "b", 3)
        press(tab, "s", 4)
        press(tab, better(tab), 5)
        press(tab, better(tab), 6)
        expect(tab.get_by_role("heading", name="All judged")).to_be_focused()
        tab.get_by_role("button", name="Look again at what you skipped (1)").click()
        expect(tab.locator("#far")).to_have_text("5 of 6")
        press(tab, better(tab), 6)
    (pair,) = told(answers)["pairs"]
    assert (pair["first"], pair["wins"], pair["losses"], pair["ties"], pair["both_bad"]) == ("good", 5, 0, 0, 1)
    assert told(answers)["notes"] == 1


def test_enough_is_said_without_saying_who_is_ahead(browser: Browser, tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text("".join(row(number, name) for number in range(12) for name in ("good", "poor")))
    with opened(path, "--rater", "Ada") as page, visiting(browser, page) as tab:
        enough = tab.get_by_text("Enough is judged")
        for done in range(1, 9):
            expect(tab.locator("#far")).to_have_text(f"{done - 1} of 12")
            expect(enough).to_be_hidden()
            tab.keyboard.press(better(tab))
        expect(enough).to_be_visible()
        assert "good is" not in tab.inner_text("body")


def test_what_a_model_wrote_is_text_and_the_keys_can_be_turned_off(browser: Browser, tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    evil = "<img src=x onerror=alert(1)>\n\n**bold** \u202eright to left"
    path.write_text(
        row(1, "a", answer=evil, question=evil, context=evil) + row(1, "b", answer="", question=evil, context=evil)
    )
    with opened(path, "--rater", "Ada") as page, visiting(browser, page) as tab:
        expect(tab.locator("#messages")).to_contain_text("<img src=x onerror=alert(1)>")
        expect(tab.locator("main img")).to_have_count(0)
        expect(tab.get_by_text("(an empty answer)")).to_be_visible()
        tab.get_by_label("Keys 1 2 T").uncheck()
        tab.keyboard.press("1")
        tab.get_by_role("button", name="Tie").click()
        expect(tab.locator("#far")).to_have_text("1 of 1")
    assert told(path)["pairs"][0]["ties"] == 1


def test_a_very_long_answer_is_shown_at_once_and_whole_if_asked_for(browser: Browser, tmp_path: Path) -> None:
    """Both are folded at the same length; the heading stays in sight while one reads."""
    path = tmp_path / "a.jsonl"
    path.write_text(row(1, "a", answer="line of text\n" * 6_000 + "end") + row(1, "b", answer="word " * 15_600 + "end"))
    with opened(path, "--rater", "Ada") as page, visiting(browser, page) as tab:
        for side in ("#left", "#right"):
            text = tab.locator(side)
            assert len(text.text_content() or "") < 50_100
            text.get_by_role("button", name="Show all 78,003").click()
            expect(text.get_by_role("button")).to_have_count(0)
            assert (text.text_content() or "").endswith("end")
        tab.mouse.wheel(0, 5000)
        becomes(tab, "scrollY > 4000")
        expect(tab.get_by_role("heading", name="Answer 1")).to_be_in_viewport()
        tab.keyboard.press("1")
        expect(tab.locator("#far")).to_have_text("1 of 1")


def test_each_paragraph_has_the_direction_of_its_own_language(browser: Browser, tmp_path: Path) -> None:
    """And a mark that turns the direction, never closed, ends with its line."""
    path = tmp_path / "a.jsonl"
    path.write_text(row(1, "a", answer="\u0634\u0631\u062d\nEnglish") + row(1, "b", answer="\u202eturned\nstraight"))
    where = """(place, at) => {
      const range = document.createRange(), text = place.firstChild, start = at ? text.data.indexOf("\\n") + 1 : 0;
      range.setStart(text, start), range.setEnd(text, start + 2);
      const box = place.getBoundingClientRect(), one = range.getBoundingClientRect();
      return one.left - box.left < box.right - one.right ? "left" : "right";
    }"""
    with opened(path, "--rater", "Ada") as page, visiting(browser, page) as tab:
        expect(tab.locator("#far")).to_have_text("0 of 1")
        arabic = "#left" if "English" in tab.locator("#left").inner_text() else "#right"
        assert [tab.locator(arabic).evaluate(where, at) for at in (0, 1)] == ["right", "left"]
        turned = "#right" if arabic == "#left" else "#left"
        assert tab.locator(turned).evaluate(where, 1) == "left"


def test_a_killed_server_is_said_and_its_successor_goes_on(browser: Browser, answers: Path) -> None:
    with opened(answers, "--rater", "Ada") as page, visiting(browser, page) as tab:
        expect(tab.locator("#far")).to_have_text("0 of 6")
        press(tab, better(tab), 1)
        os.kill(page.process.pid, signal.SIGKILL)
        page.process.wait()
        tab.keyboard.press("1")
        expect(tab.get_by_role("alert")).to_contain_text("The server does not answer")
        expect(tab.locator("#far")).to_have_text("1 of 6")
    with opened(answers, "--rater", "Ada") as page, visiting(browser, page) as tab:
        expect(tab.locator("#far")).to_have_text("1 of 6")
    assert told(answers)["judged"] == 1


def test_a_verdict_that_was_not_stored_can_be_sent_again(browser: Browser, answers: Path) -> None:
    """The page stays where it is, and sends the very same verdict."""
    with opened(answers, "--rater", "Ada") as page, visiting(browser, page) as tab:
        expect(tab.locator("#far")).to_have_text("0 of 6")
        tab.route("**/api/judgement", lambda route: route.fulfill(status=507, json={"error": "the disk is full"}))
        tab.keyboard.press("1")
        expect(tab.get_by_role("alert")).to_contain_text("Not stored: the disk is full")
        tab.unroute("**/api/judgement")
        tab.get_by_role("button", name="Try again").click()
        expect(tab.locator("#far")).to_have_text("1 of 6")
        expect(tab.get_by_role("alert")).to_be_hidden()
    assert told(answers)["judged"] == 1


def test_two_raters_in_two_browsers_agree_or_not(browser: Browser, answers: Path) -> None:
    with opened(answers) as page, visiting(browser, page) as ada:
        sit(ada, "Ada")
        with visiting(browser, Opened(page.process, page.another())) as bob:
            sit(bob, "Bob")
            for done in range(1, 7):
                press(ada, better(ada), done)
                press(bob, better(bob) if done > 2 else "t", done)
    agreement = told(answers)["agreement"]
    assert agreement["same"] == pytest.approx(4 / 6)
    assert agreement["cohen_kappa"][0]["raters"] == ["Ada", "Bob"]


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1200, 390, 320])
def test_nothing_is_cut_on_any_screen(browser: Browser, tmp_path: Path, scheme: str, width: int) -> None:
    """Long words wrap; every button is whole, in sight, and large enough for a finger; text has contrast."""
    path = tmp_path / "a.jsonl"
    path.write_text(
        row(1, "a", answer="x" * 300, context="y" * 300) + row(1, "b", answer="short " * 400, context="y" * 300)
    )
    look: dict[str, Any] = {"color_scheme": scheme, "viewport": {"width": width, "height": 700}}
    with opened(path, "--rater", "Ada") as page, visiting(browser, page, **look) as tab:
        expect(tab.locator("#far")).to_have_text("0 of 1")
        assert tab.locator("html").evaluate("root => root.scrollWidth") == width
        for button in tab.locator("footer button").all():
            box = button.bounding_box()
            assert box is not None
            assert box["height"] >= 44
            assert box["x"] >= 0
            assert box["x"] + box["width"] <= width
            assert box["y"] + box["height"] <= 700
            assert button.evaluate("one => one.scrollWidth <= one.clientWidth")
        for place in ("#left", "footer button >> nth=0", "#context"):
            ink, paper = tab.locator(place).evaluate(COLOURS)
            assert contrast(ink, paper) >= 4.5, place


def contrast(ink: str, paper: str) -> float:
    """WCAG 2.2, contrast ratio."""

    def luminance(colour: str) -> float:
        parts = [int(one) / 255 for one in colour.removeprefix("rgb(").rstrip(")").split(",")[:3]]
        linear = [one / 12.92 if one <= 0.04045 else ((one + 0.055) / 1.055) ** 2.4 for one in parts]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    low, high = sorted((luminance(ink), luminance(paper)))
    return (high + 0.05) / (low + 0.05)
