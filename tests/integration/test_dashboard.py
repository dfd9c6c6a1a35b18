"""The dashboard in a real browser."""

import re
import secrets

import pytest
from playwright.sync_api import Browser, expect

from integration.caller import PASSWORD, Account
from integration.chromium import HEIGHT, Person
from local.stack import Stack

MODEL = "lilypad/tiny-text-classification"
PUBLIC = ("/", "/register", "/login", "/nothing-here")
PRIVATE = ("/dashboard", "/dashboard/keys", "/dashboard/usage", "/dashboard/account")


def test_a_newcomer_registers_and_sees_a_chart_by_following_the_pages(
    stack: Stack, stranger: Person
) -> None:
    page, email = stranger.page, f"{secrets.token_hex(6)}@example.com"
    page.goto("/")
    expect(page.locator("#curl")).to_contain_text(f"{stack.url}/v1/api/download")
    page.get_by_role("link", name="Start: register").click()
    page.get_by_label("E-mail address").fill(email)
    page.get_by_label("Password").fill("short")
    page.evaluate("document.querySelector('main form').noValidate = true")
    page.get_by_role("main").get_by_role("button", name="Register").click()
    expect(page.locator("#password-fault")).to_contain_text("at least 8 characters")
    expect(page.get_by_label("E-mail address")).to_have_value(email)
    page.get_by_label("Password").fill(PASSWORD)
    page.get_by_role("main").get_by_role("button", name="Register").click()
    page.wait_for_url("**/dashboard")
    page.get_by_role("link", name="Make a key").click()
    page.get_by_label("Name", exact=True).fill("laptop")
    page.get_by_role("button", name="Make a key").click()
    expect(page.get_by_label("The new key")).to_be_focused()
    key = page.get_by_label("The new key").input_value()
    page.get_by_role("link", name="Generate").click()
    expect(page.locator("#modelUrl")).to_be_focused()
    page.keyboard.type(MODEL)
    page.keyboard.press("Enter")
    page.get_by_role("heading", name=MODEL).wait_for()
    page.get_by_role("link", name="Models").click()
    page.get_by_label("Watch a model").fill(MODEL)
    page.get_by_role("button", name="Watch").click()
    expect(page.locator("#connection")).to_contain_text("Live")
    answer = page.request.post(
        "/v1/api/monitor/record",
        data={"modelId": MODEL, "metrics": {"latency": 12.5}},
        headers={"Authorization": f"Bearer {key}"},
    )
    assert answer.status == 200
    expect(page.locator(".chart[data-metric=latency] canvas")).to_be_visible()
    page.get_by_role("link", name="Keys").click()
    page.once("dialog", lambda dialog: dialog.accept())
    page.get_by_role("button", name="Revoke laptop").click()
    expect(page.get_by_text("You have no keys yet")).to_be_visible()


def test_the_first_page_takes_at_most_150_kb(stranger: Person) -> None:
    page = stranger.page
    stranger.context.new_cdp_session(page).send("Network.clearBrowserCache")
    page.goto("/")
    transferred = page.evaluate("""
        ['navigation', 'resource'].flatMap((kind) => performance.getEntriesByType(kind))
          .reduce((sum, { transferSize }) => sum + transferSize, 0)
    """)
    assert 5_000 < transferred <= 150_000


def test_a_password_change_ends_the_other_browsers_session_and_a_login_returns_to_its_page(
    stack: Stack, browser: Browser, person: Person, account: Account
) -> None:
    other = Person(browser, stack.url)
    other.log_in(account.email)
    page = person.page
    page.goto("/dashboard/account")
    expect(page.get_by_role("button", name="End the session")).to_have_count(1)
    for current, fault in (("not it at all", "Is not the account's password"), (PASSWORD, "")):
        page.get_by_label("Current password").fill(current)
        page.get_by_label("New password").fill("another frog on a pad")
        page.get_by_role("button", name="Change the password").click()
        if fault:
            expect(page.locator("#current-fault")).to_contain_text(fault)
    expect(page.get_by_role("main").get_by_role("status")).to_contain_text("is changed")
    expect(page.get_by_role("button", name="End the session")).to_have_count(0)
    other.page.goto("/dashboard/keys")
    other.page.wait_for_url("**/login?next=/dashboard/keys")
    other.submit_login(account.email, "another frog on a pad")
    other.page.wait_for_url("**/dashboard/keys")
    other.context.close()


def test_errors_in_keys_and_the_second_factor_are_shown_next_to_their_fields(
    person: Person,
) -> None:
    page = person.page
    page.goto("/dashboard/keys")
    page.get_by_label("Name", exact=True).fill("laptop")
    for box in page.get_by_role("checkbox").all():
        box.uncheck()
    page.get_by_role("button", name="Make a key").click()
    scopes = page.get_by_role("group", name=re.compile("Scopes"))
    expect(scopes).to_have_accessible_description("Choose at least one scope.")
    expect(page.get_by_role("checkbox", checked=True)).to_have_count(0)
    name = page.get_by_label("Name", exact=True)
    expect(name).to_have_value("laptop")
    name.fill("  ")
    page.get_by_role("button", name="Make a key").click()
    expect(name).to_have_accessible_description(re.compile("Must be 1 to 100 characters"))
    page.get_by_label("New name of test").fill("  ")
    page.get_by_role("button", name="Rename").click()
    renamed = page.get_by_label("New name of test")
    expect(renamed).to_have_accessible_description(re.compile("Must be 1 to 100 characters"))
    expect(page.locator(".fault")).to_have_count(1)
    page.goto("/dashboard/account")
    page.locator("#totp-password").fill("not it at all")
    page.get_by_role("button", name="Set up").click()
    expect(page.locator("#totp-password")).to_have_accessible_description(
        "Is not the account's password."
    )
    expect(page.locator(".fault")).to_have_count(1)


@pytest.mark.parametrize("next_page", ["//evil.example/dashboard", "https://evil.example", "/docs"])
def test_a_login_redirects_only_within_the_dashboard(
    stranger: Person, account: Account, next_page: str
) -> None:
    stranger.page.goto(f"/login?next={next_page}")
    stranger.submit_login(account.email)
    stranger.page.wait_for_url(f"{stranger.url}/dashboard")


def test_an_ended_session_redirects_to_the_login_and_then_back(
    person: Person, account: Account
) -> None:
    page, other = person.page, person.open()
    page.goto("/dashboard/generate")
    other.goto("/dashboard")
    other.get_by_role("button", name="Log out").click()
    other.wait_for_url(f"{person.url}/")
    page.get_by_label("Model on the Hugging Face Hub").fill(MODEL)
    page.get_by_role("button", name="Generate", exact=True).click()
    page.wait_for_url("**/login?next=/dashboard/generate")
    person.submit_login(account.email)
    page.wait_for_url("**/dashboard/generate")


def test_the_first_tab_stop_is_a_link_to_the_content(person: Person) -> None:
    page = person.page
    page.goto("/dashboard/keys")
    page.keyboard.press("Tab")
    skip = page.get_by_role("link", name="Skip to the content")
    expect(skip).to_be_focused()
    expect(skip).to_be_in_viewport()
    page.keyboard.press("Enter")
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.closest('main') !== null")


def test_pages_pass_axe_and_fit_in_both_themes_and_widths(person: Person) -> None:
    assert [fault for path in (*PUBLIC, *PRIVATE) for fault in person.faults(path)] == []
    # Three lines on a phone: the name, and two of pages.
    person.page.set_viewport_size({"width": 360, "height": HEIGHT})
    bar = person.page.locator("header.bar").bounding_box()
    assert bar
    assert bar["height"] < 140


def test_one_of_many_models_is_found_by_keyboard_and_in_pages(
    person: Person, account: Account
) -> None:
    names = [f"team/model-{number:03}" for number in range(120)]
    records = [{"modelId": name, "metrics": {"latency": 1.0}} for name in names]
    answer = account.post(
        "/v2/api/monitor/record", {"records": records}, headers={"X-Lilypad-Beta": "v2"}
    )
    assert answer.status_code == 200, answer.text
    page = person.page
    page.goto("/dashboard/models")
    links = page.locator("main .row a")
    expect(links).to_have_count(50)
    seen = set()
    for place in (50, 100, None):
        seen |= set(links.all_inner_texts())
        if place:
            page.get_by_role("link", name="More models").click()
            page.wait_for_url(f"**from={place}")
            expect(links).to_have_count(min(50, len(names) - place))
    assert seen == set(names)
    find = page.get_by_role("searchbox", name="Find a model")
    find.focus()
    page.keyboard.type("MODEL-11")
    page.keyboard.press("Enter")
    expect(links).to_have_count(10)
    expect(find).to_have_value("MODEL-11")
    find.focus()
    page.keyboard.press("End")
    page.keyboard.type("7x")
    page.keyboard.press("Enter")
    expect(page.get_by_role("main")).to_contain_text("name contains “MODEL-117x”.")
