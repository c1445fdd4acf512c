"""Every view as programs that read it aloud find it: names, roles, contrast, by axe-core."""

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser

VIEWS = ("", "engines", "routes", "decisions", "experiments", "benchmarks", "prompts", "playground", "api")


@pytest.mark.parametrize(("scheme", "width"), [("light", 1200), ("dark", 1200), ("dark", 360)])
def test_axe_finds_nothing_in_any_view(browser: Browser, root: str, scheme: str, width: int) -> None:
    look = {"color_scheme": scheme, "viewport": {"width": width, "height": 800}, "reduced_motion": "reduce"}
    with browser.new_context(**look) as context:  # type: ignore[arg-type]
        page = context.new_page()
        for view in VIEWS:
            page.goto(f"{root}/#/{view}")
            page.wait_for_selector("h1")
            found = Axe().run(page)
            assert found.violations_count == 0, (view, found.generate_report())
