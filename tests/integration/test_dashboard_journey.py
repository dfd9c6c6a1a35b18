"""A newcomer's journey from registration to an alert, with the keyboard alone."""

import re
import secrets

import pytest
from playwright.sync_api import Browser, Locator, Page, expect

from integration.caller import PASSWORD
from integration.chromium import Person
from local.stack import Stack

MODEL = "lilypad/tiny-text-classification"
RUN = re.compile(r".*/dashboard/benchmarks/bench_[0-9a-f]+$")
RUN_MS = 300_000
MAX_STOPS = 60
# Why a keyboard's user cannot see where the focus is; an empty text if all is well.
UNSEEN = """
() => {
  const element = document.activeElement;
  if (element === document.body) return '';
  const { outlineStyle, outlineWidth } = getComputedStyle(element);
  const { width, height, top, bottom } = element.getBoundingClientRect();
  const name = `${element.tagName} ${element.textContent.trim().slice(0, 40)}`;
  if (outlineStyle === 'none' || parseFloat(outlineWidth) < 2) return `${name}: no outline`;
  if (width < 4 || height < 4) return `${name}: ${width} by ${height} px`;
  return bottom <= 0 || top >= innerHeight ? `${name}: outside the window` : '';
}
"""


def tab_to(page: Page, target: Locator, key: str = "Tab") -> None:
    """Press Tab until the target has the focus; every focused element must be visible."""
    target.wait_for()
    for _ in range(MAX_STOPS):
        page.keyboard.press(key)
        assert page.evaluate(UNSEEN) == ""
        if target.evaluate("element => element === document.activeElement"):
            return
    raise AssertionError(f"{target} is not reached with {key}")


def press(page: Page, target: Locator, key: str = "Tab") -> None:
    tab_to(page, target, key)
    page.keyboard.press("Enter")


def skip(page: Page) -> None:
    """Follow the skip link of a newly loaded page."""
    press(page, page.get_by_role("link", name="Skip to the content"))


def make_key(page: Page) -> str:
    skip(page)
    press(page, page.get_by_role("link", name="Make a key"))
    page.wait_for_url("**/dashboard/keys")
    skip(page)
    tab_to(page, page.get_by_label("Name", exact=True))
    page.keyboard.type("laptop")
    tab_to(page, page.get_by_label("Expires"))
    page.keyboard.press("ArrowDown")
    press(page, page.get_by_role("button", name="Make a key"))
    key = page.get_by_label("The new key")
    expect(key).to_be_focused()
    value = key.input_value()
    page.once("dialog", lambda dialog: dialog.dismiss())
    revoke = page.get_by_role("button", name="Revoke laptop")
    press(page, revoke)
    expect(revoke).to_be_focused()
    return value


def generate(page: Page) -> None:
    press(page, page.get_by_role("link", name="Generate", exact=True), "Shift+Tab")
    expect(page.get_by_label("Model on the Hugging Face Hub")).to_be_focused()
    page.keyboard.type(MODEL)
    press(page, page.get_by_text("Options"))
    tab_to(page, page.get_by_label("Inputs at once"))
    page.keyboard.type("four")
    page.keyboard.press("Enter")
    wrong = page.get_by_label("Inputs at once")
    expect(wrong).to_have_accessible_description(re.compile("Must be a whole number"))
    expect(wrong).to_be_focused()
    page.keyboard.press("Control+a")
    page.keyboard.type("4")
    button = page.get_by_role("button", name="Generate", exact=True)
    press(page, button)
    page.locator("#verdict").wait_for()
    expect(button).to_be_focused()
    with page.expect_download():
        press(page, page.get_by_role("button", name="Download the zip"))
    verify = page.get_by_role("button", name="Verify: run it once")
    press(page, verify)
    answer = page.locator("#verification pre", has_text='"status": "success"')
    answer.wait_for(timeout=RUN_MS)
    expect(verify).to_be_focused()
    expect(page.locator("#status")).to_have_text("Verification passed")


def benchmark(page: Page) -> None:
    """Fill in the benchmark form, start the run, and wait for the results."""
    tab_to(page, page.get_by_label("Batch sizes"))
    page.keyboard.type("1 2")
    press(page, page.get_by_text("Options"))
    tab_to(page, page.get_by_label("Timed calls per size"))
    page.keyboard.type("4")
    press(page, page.get_by_role("button", name="Start"))
    page.wait_for_url(RUN)
    page.get_by_role("heading", name="Results").wait_for(timeout=RUN_MS)
    page.locator(".chart canvas").first.wait_for()
    expect(page.locator("#status")).to_have_text("Run succeeded")


def publish(page: Page) -> None:
    skip(page)
    button = page.get_by_role("button", name="Make public")
    page.once("dialog", lambda dialog: dialog.dismiss())
    press(page, button)
    expect(button).to_be_focused()
    page.once("dialog", lambda dialog: dialog.accept())
    page.keyboard.press("Enter")
    expect(page.get_by_role("heading", name="Public")).to_be_focused()


def read_chart(page: Page) -> None:
    chart = page.locator(".chart").first
    tab_to(page, chart.get_by_role("application"))
    page.keyboard.press("Home")
    first = chart.locator(".reading").inner_text()
    page.keyboard.press("ArrowRight")
    expect(chart.locator(".reading")).not_to_have_text(first)
    page.keyboard.press("ArrowLeft")
    expect(chart.locator(".reading")).to_have_text(first)
    press(page, chart.get_by_text("As a table"))
    expect(chart.locator("details li").filter(has_text=first)).to_have_count(1)


def compare(page: Page) -> None:
    press(page, page.get_by_role("link", name="All runs"), "Shift+Tab")
    page.wait_for_url("**/dashboard/benchmarks")
    skip(page)
    tab_to(page, page.get_by_label("Model", exact=True))
    page.keyboard.type(MODEL)
    benchmark(page)
    press(page, page.get_by_role("link", name="All runs"))
    page.wait_for_url("**/dashboard/benchmarks")
    skip(page)
    boxes = page.get_by_role("checkbox", name="Compare")
    for box in (boxes.first, boxes.last):
        tab_to(page, box)
        page.keyboard.press("Space")
    press(page, page.get_by_role("button", name="Compare the chosen"), "Shift+Tab")
    page.get_by_role("heading", name="Compare 2 runs").wait_for()
    page.locator(".chart canvas").first.wait_for()
    skip(page)
    read_chart(page)


def watch(page: Page, key: str) -> None:
    press(page, page.get_by_role("link", name="Models"), "Shift+Tab")
    page.wait_for_url("**/dashboard/models")
    press(page, page.get_by_role("link", name=MODEL))
    expect(page.locator("#connection")).to_contain_text("Live")
    skip(page)
    read_chart(page)
    press(page, page.get_by_text("Add a rule"))
    tab_to(page, page.get_by_label("Metric", exact=True))
    page.keyboard.type("latency")
    tab_to(page, page.get_by_label("Above", exact=True))
    page.keyboard.type("1000")
    page.keyboard.press("Enter")
    page.wait_for_url("**#rules")
    expect(page.get_by_role("heading", name="Rules")).to_be_focused()
    expect(page.locator("#connection")).to_contain_text("Live")
    answer = page.request.post(
        "/v1/api/monitor/record",
        data={"modelId": MODEL, "metrics": {"latency": 9_000}},
        headers={"Authorization": f"Bearer {key}"},
    )
    assert answer.status == 200
    acknowledge = page.get_by_role("button", name="Acknowledge")
    acknowledge.first.wait_for()
    expect(page.locator("#status")).to_contain_text("above 1,000 ms")
    press(page, acknowledge.first, "Shift+Tab")
    expect(page.get_by_role("heading", name="Alerts")).to_be_focused()
    # Statistics follow the chart.
    latency = page.get_by_role("row", name=re.compile("^Latency"))
    expect(latency.get_by_role("cell").nth(1)).to_have_text(re.compile(r"\d,\d{3}"))


@pytest.mark.long
def test_a_newcomer_gets_from_an_empty_browser_to_an_alert_with_the_keyboard_alone(
    stack: Stack, browser: Browser
) -> None:
    person = Person(browser, stack.url)
    page = person.page
    page.goto("/")
    press(page, page.get_by_role("link", name="Start: register"))
    expect(page.get_by_label("E-mail address")).to_be_focused()
    page.keyboard.type(f"{secrets.token_hex(6)}@example.com")
    tab_to(page, page.get_by_label("Password"))
    page.keyboard.type("password1")
    page.keyboard.press("Enter")
    page.locator("#password-fault").wait_for()
    expect(page.get_by_label("Password")).to_be_focused()
    page.keyboard.type(PASSWORD)
    press(page, page.get_by_role("main").get_by_role("button", name="Register"))
    page.wait_for_url("**/dashboard")
    key = make_key(page)
    generate(page)
    press(page, page.get_by_role("link", name="Benchmark it"))
    page.wait_for_url(re.compile("/dashboard/benchmarks.model="))
    skip(page)
    benchmark(page)
    publish(page)
    compare(page)
    watch(page, key)
    assert person.complaints == []
    person.context.close()
