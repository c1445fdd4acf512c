"""Pictures of the page of `roundhouse rate`: light, and dark on a phone. `make pictures`."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path

from playwright.sync_api import sync_playwright

from tests.browser.conftest import chromium
from tests.rating.conftest import opened

FOLDER = Path(__file__).parent.parent.parent / "docs" / "pictures"
LOOKS = {"rate-light": ("light", 1200, 620), "rate-phone": ("dark", 390, 780)}
CONTEXT = (
    "The lighthouse of Varo was built in 1871 by Ines Calder. Its lamp was lit with whale oil until 1902, when the "
    "harbour board had it changed for gas. The keeper's house burned down in the winter of 1934 and was never built "
    "again."
)
ANSWERS = {
    "brief": "It burned down in the winter of 1934.",
    "full": "The keeper's house burned down in the winter of 1934 and was never built again. Before that, in 1902, the "
    "lamp had been changed from whale oil to gas.",
}


def take() -> None:
    row = {"question": "What became of the keeper's house?", "context": CONTEXT, "answers": ANSWERS}
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as playwright:
        answers = Path(folder) / "a.jsonl"
        answers.write_text("".join(json.dumps({**row, "id": number}) + "\n" for number in range(40)))
        browser = playwright.chromium.launch(executable_path=chromium(), args=["--no-sandbox", "--disable-gpu"])
        with opened(answers, "--rater", "Ada", "--seed", "3") as page:
            address = page.address
            for name, (scheme, width, height) in LOOKS.items():
                viewport = {"width": width, "height": height}
                with browser.new_context(color_scheme=scheme, viewport=viewport) as context:  # type: ignore[arg-type]
                    tab = context.new_page()
                    tab.goto(address)
                    tab.locator("#task").wait_for()
                    tab.keyboard.press("t")
                    tab.locator("#far").filter(has_not_text="0 of").wait_for()
                    tab.screenshot(path=FOLDER / f"{name}.png")
                address = page.another()
        browser.close()


if __name__ == "__main__":
    take()
