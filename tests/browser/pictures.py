"""Pictures of the dashboard over the demo model under a little load: light, dark and on a phone. `make pictures`."""

from __future__ import annotations

import tempfile
import time
from pathlib import Path

from playwright.sync_api import Browser, Page, sync_playwright

from tests.browser.conftest import CONFIG, chromium, experimented
from tests.browser.test_page import QUESTION, loaded
from tests.conftest import VARO, WHO
from tests.server.conftest import serve

FOLDER = Path(__file__).parent.parent.parent / "docs" / "pictures"
LOOKS = {"light": ("light", 1200, 780), "dark": ("dark", 1200, 780), "phone": ("light", 390, 780)}
WARM_UP_S = 12


def take() -> None:
    """Pictures of the overview, the experiments and the playground for each look, and of the routes in the dark."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as playwright:
        config = Path(folder) / "c.yaml"
        config.write_text(CONFIG)
        experimented(Path(folder) / "state")  # where `serve` has the server keep it
        browser = playwright.chromium.launch(executable_path=chromium(), args=["--no-sandbox", "--disable-gpu"])
        with serve(config) as served:
            root = served.url.removesuffix("/v1")
            with loaded(root, pause_s=0.2):
                for name, (scheme, width, height) in LOOKS.items():
                    _look(browser, root, name, scheme, width, height)
        browser.close()


def _look(browser: Browser, root: str, name: str, scheme: str, width: int, height: int) -> None:
    viewport = {"width": width, "height": height}
    with browser.new_context(color_scheme=scheme, viewport=viewport) as context:  # type: ignore[arg-type]
        page = context.new_page()
        page.goto(root)
        page.wait_for_selector(".link.live")
        time.sleep(WARM_UP_S)  # so that the charts have something to show
        page.screenshot(path=FOLDER / f"overview-{name}.png")
        page.goto(f"{root}/#/experiments")
        page.locator("canvas").first.wait_for()
        page.screenshot(path=FOLDER / f"experiments-{name}.png")
        if name == "dark":
            _switch_and_chat(page, root)
        else:
            _prompt(page, root, name)


def _switch_and_chat(page: Page, root: str) -> None:
    page.goto(f"{root}/#/routes")
    page.get_by_label("New target of answers").select_option("blue")
    page.get_by_role("button", name="Switch").nth(1).click()
    page.get_by_role("row").filter(has_text="answers: red").get_by_text("done").first.wait_for()
    page.screenshot(path=FOLDER / "routes-dark.png")
    page.goto(f"{root}/#/playground")
    page.get_by_label("Compare with").select_option("blue")
    page.get_by_label("Message").fill(QUESTION)
    page.get_by_role("button", name="Send").click()
    page.get_by_text("tokens/s").nth(1).wait_for()
    page.screenshot(path=FOLDER / "playground-dark.png")


def _prompt(page: Page, root: str, name: str) -> None:
    page.goto(f"{root}/#/playground?prompt=rag_query")
    page.get_by_label("Compare with").select_option("blue")
    page.get_by_label("context").fill(VARO)
    page.get_by_label("question").fill(WHO)
    page.get_by_role("button", name="Send").click()
    page.get_by_text("tokens/s").nth(1).wait_for()
    page.evaluate("scrollTo(0, 0)")
    page.screenshot(path=FOLDER / f"playground-{name}.png")


if __name__ == "__main__":
    take()
