"""A person's Chromium, with checks of console errors, axe's findings and page width."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import httpx2
import pytest
from playwright import sync_api
from playwright.sync_api import Browser, BrowserContext, Page, expect, sync_playwright

from integration.caller import PASSWORD

AXE = Path(__file__).parent / "javascript" / "node_modules" / "axe-core" / "axe.min.js"
THEMES = ("light", "dark")
WIDTHS = (1440, 320)
HEIGHT = 900
# Timeout for a page on a machine that is busy with other tests.
TIMEOUT_MS = 60_000
PLOTS_FOLLOW_MS = 15_000
SEVERE = ("serious", "critical")
WIDER = "document.documentElement.scrollWidth - document.documentElement.clientWidth"
# Text at the very edge of a card, or beyond it, and tables that scroll though they are not wide.
UNFIT = """
() => [...document.querySelectorAll('.card, .table:not(.wide)')].filter((part) => (
  part.scrollWidth > part.clientWidth + 1
  || (part.matches('.card') && parseFloat(getComputedStyle(part).paddingLeft) < 8)
)).map((part) => part.textContent.trim().slice(0, 60))
"""
# The rules that depend on a theme's colours.
COLOURS = ("color-contrast", "link-in-text-block")
RULES = """
async (rules) => {
  const options = { resultTypes: ["violations"], ...(rules && { runOnly: rules }) };
  const { violations } = await axe.run(options);
  return violations.map(({ id, impact, nodes }) => (
    { id, impact, nodes: nodes.slice(0, 3).map((node) => node.html.slice(0, 200)) }
  ));
}
"""


@contextmanager
def chromium() -> Iterator[Browser]:
    """A running Chromium, without its sandbox, which a test's machine may not permit."""
    program = shutil.which("chromium")
    if program is None:
        pytest.fail("chromium is missing: apt-get install chromium")
    expect.set_options(timeout=TIMEOUT_MS)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program, args=["--no-sandbox"])
        try:
            yield browser
        finally:
            browser.close()


class Person:
    """A person with a separate browser profile.

    `complaints` are the console's errors, which name each breach of the content security policy,
    and exceptions of scripts.
    """

    def __init__(self, browser: Browser, url: str, **options: Any) -> None:
        # A spinner that turns takes half a core while a test waits.
        self.context: BrowserContext = browser.new_context(
            base_url=url,
            viewport={"width": WIDTHS[0], "height": HEIGHT},
            reduced_motion="reduce",
            **options,
        )
        self.context.set_default_timeout(TIMEOUT_MS)
        self.url = url
        self.complaints: list[str] = []
        self.page = self.open()

    def open(self) -> Page:
        """Open a new tab."""
        page = self.context.new_page()
        page.on("console", lambda message: self._hear(message.type, message.text))
        page.on("pageerror", lambda error: self.complaints.append(str(error)))
        return page

    def _hear(self, kind: str, text: str) -> None:
        # Many tests provoke an error status.
        if kind == "error" and "Failed to load resource" not in text:
            self.complaints.append(text)

    def log_in(self, email: str, password: str = PASSWORD) -> None:
        """Log in with the login page's request, without rendering the page."""
        form = {"email": email, "password": password}
        headers = {"Sec-Fetch-Site": "same-origin"}
        answer = httpx2.post(f"{self.url}/login", data=form, headers=headers, timeout=60)
        assert answer.status_code == 303, answer.text
        name, _, value = answer.headers["set-cookie"].partition(";")[0].partition("=")
        self.context.clear_cookies()
        # Chromium sends a secure cookie to this machine without TLS, but is not given it for http.
        url = self.url.replace("http:", "https:")
        self.context.add_cookies(
            [{"name": name, "value": value, "url": url, "secure": True, "httpOnly": True}]
        )

    def submit_login(self, email: str, password: str = PASSWORD) -> None:
        self.page.get_by_label("E-mail address").fill(email)
        self.page.get_by_label("Password").fill(password)
        self.page.get_by_role("main").get_by_role("button", name="Log in").click()

    def excess(self, page: Page | None = None) -> list[str]:
        """List the elements that exceed the window, a card or a table, after plots were resized."""
        page = page or self.page
        with suppress(sync_api.TimeoutError):
            # A bare expression would be evaluated again each time, which the policy forbids.
            page.wait_for_function(f"() => {WIDER} <= 0", timeout=PLOTS_FOLLOW_MS)
        wider = int(page.evaluate(WIDER))
        found = [f"is {wider} px too wide"] if wider > 0 else []
        return found + [f"does not fit its card or table: {text}" for text in page.evaluate(UNFIT)]

    def faults(self, path: str) -> list[str]:
        """Return axe's serious findings, and any excess width, in both themes and widths."""
        findings = []
        self.page.goto(path)
        self.page.evaluate(AXE.read_text())
        for width in WIDTHS:
            self.page.set_viewport_size({"width": width, "height": HEIGHT})
            findings += [f"{path} at {width} px {excess}" for excess in self.excess()]
            for theme, rules in zip(THEMES, (None, COLOURS), strict=True):
                self.page.emulate_media(color_scheme=theme)
                findings += [
                    f"{path} {theme} {width}: {fault}"
                    for fault in self.page.evaluate(RULES, rules)
                    if fault["impact"] in SEVERE
                ]
        return findings


def generate(page: Page, model: str) -> None:
    """Request a module of the model through the form."""
    page.goto("/dashboard/generate")
    page.get_by_label("Model on the Hugging Face Hub").fill(model)
    page.get_by_role("button", name="Generate", exact=True).click()
