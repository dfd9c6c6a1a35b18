"""The API reference in a real browser: forms, answers, accessibility."""

import hashlib
import json
from collections.abc import Iterator
from typing import Any

import httpx2
import psycopg
import pyotp
import pytest
from playwright.sync_api import Browser, Page, expect

from gateway import samples
from hub.app import MEMBER_TOKEN
from integration.caller import confirm_address
from integration.chromium import AXE, HEIGHT, RULES, SEVERE, WIDER, WIDTHS, Person
from local.stack import Stack

PASSWORD = "correct horse battery"  # the samples' values
SCOPES = ["generate", "benchmark", "monitor:read", "monitor:write"]
# Operations that others depend on come first, in this order; those that end something come last.
FIRST = (
    *("register", "create_key", "record", "record_many", "add_rule", "add_webhook", "benchmark"),
    *("store_hub_token", "try_webhook"),
)
LAST = (
    *("start_totp", "confirm_totp", "stop_totp"),
    *("change_password", "request_reset", "confirm_reset", "delete_account"),
)


@pytest.fixture
def stranger(stack: Stack, browser: Browser) -> Iterator[Person]:
    person = Person(browser, stack.url)
    yield person
    person.context.close()
    assert person.complaints == []


def operations(url: str, version: str) -> list[str]:
    """Return a version's operations in an order in which each can be tried."""
    document = httpx2.get(f"{url}/openapi.json", timeout=60).json()
    found = [
        (method == "delete", operation["operationId"].removesuffix(f"_{version}"))
        for path, item in document["paths"].items()
        for method, operation in item.items()
        if path.startswith(f"/{version}/")
    ]
    middle = [name for _, name in sorted(found) if name not in (*FIRST, *LAST)]
    names = {name for _, name in found}
    return [name for name in (*FIRST, *middle, *LAST) if name in names]


class Reader:
    """A person who tries the operations in turn, with the account of the samples."""

    def __init__(self, stack: Stack, page: Page, version: str) -> None:
        self.stack, self.page, self.version = stack, page, version
        self.http = httpx2.Client(base_url=stack.url, timeout=60)
        self.password = PASSWORD
        self.key = ""
        # Values that a page cannot know, by operation and label.
        self.values: dict[str, dict[str, str]] = {}

    def send(self, name: str) -> str:
        """Send an operation with its page's initial values; return the answer shown."""
        page = self.page
        page.goto(f"/docs/{self.version}/{name}")
        for label, value in (("Password", self.password), ("API key", self.key)):
            field = page.locator("#call").get_by_label(label)
            if field.count() and not field.input_value():
                field.fill(value)
                field.press("Tab")
        for label, value in self.values.get(name, {}).items():
            page.locator("#call").get_by_label(label).first.fill(value)
        # Ids are filled in from the lists of existing objects.
        for field in page.locator("#call input[required]").all():
            expect(field).not_to_have_value("")
        page.get_by_role("button", name="Send").click()
        expect(page.locator("#answer-time")).not_to_be_empty()
        return (
            page.locator("#answer-status").inner_text() + page.locator("#answer-body").inner_text()
        )

    def start(self, path: str, body: Any) -> str:
        """Start a run; return its id."""
        answer = self.post(path, body, Prefer="respond-async")
        return answer.headers["location"].rpartition("/")[2]

    def post(self, path: str, body: Any, **headers: str) -> httpx2.Response:
        headers = {"Authorization": f"Bearer {self.key}", **headers}
        answer = self.http.post(f"/v1/api{path}", json=body, headers=headers)
        assert answer.is_success, answer.text
        return answer

    def make_key(self) -> None:
        """Create a key with all scopes; the sample's has fewer."""
        body = {"name": "everything", "scopes": SCOPES}
        answer = self.http.post("/v1/api/keys", json=body, auth=("you@example.com", PASSWORD))
        self.key = answer.json()["data"]["key"]

    def prepare(self) -> None:
        """Create what later operations need: a finished run, a trial, a delivery, a token."""
        run = self.start("/benchmark", samples.REQUESTS["BenchmarkRequest"])
        trial = samples.REQUESTS["GenerateRequest"] | {"verify": True}
        for name in ("get_verification", "cancel_verification"):
            self.values[name] = {"id": self.start("/generate", trial)}
        results = json.dumps(samples.answers()["Run"]["results"])
        with psycopg.connect(self.stack.postgres.url("benchmarker")) as database:
            database.execute(
                "update runs set state = 'succeeded', done = total, results = %s,"
                " started_at = now(), finished_at = now() where id = %s",
                [results, run],
            )
        self.values["plot_benchmark"] = {"id": run}
        self.values["store_hub_token"] = {"Body": json.dumps({"token": MEMBER_TOKEN})}
        self.post("/monitor/record", {"modelId": "openai/gpt2", "metrics": {"latency": 300}})
        # A session to end.
        login = {"email": "you@example.com", "password": PASSWORD}
        page_itself = {"Sec-Fetch-Site": "same-origin"}
        assert self.http.post("/login", data=login, headers=page_itself).status_code == 303
        self.http.cookies.clear()

    def learn(self, name: str, shown: str) -> None:
        """Take the step between two operations: read a mail, or compute an app's code."""
        if name == "register":
            confirm_address(self.stack, "you@example.com")
        elif name == "create_key":
            self.make_key()
        elif name == "benchmark":
            self.prepare()
        elif name == "start_totp":
            code = pyotp.TOTP(answered(shown)["secret"]).now()
            self.values["confirm_totp"] = {"Body": json.dumps({"code": code})}
        elif name == "confirm_totp":
            first, second, *_ = answered(shown)["recoveryCodes"]
            end = samples.REQUESTS["TotpEnd"] | {"code": first}
            self.values["stop_totp"] = {"Body": json.dumps(end), "Code": second}
        elif name == "change_password":
            self.password = samples.REQUESTS["PasswordChange"]["new"]
        elif name == "request_reset":
            mail_sample_token(self.stack)
        elif name == "confirm_reset":
            self.password = PASSWORD


def answered(shown: str) -> dict[str, Any]:
    """Return the answer that a page shows."""
    data: dict[str, Any] = json.loads(shown[shown.index("{") :])["data"]
    return data


def mail_sample_token(stack: Stack) -> None:
    """Replace the sample's token by the token of a received mail."""
    token = samples.REQUESTS["Reset"]["token"].encode()
    with psycopg.connect(stack.postgres.url("gateway")) as database:
        database.execute(
            "insert into resets (hash, account_id, expires_at)"
            " select %s, id, now() + interval '1 hour' from accounts where email = %s",
            [hashlib.sha256(token).digest(), "you@example.com"],
        )


@pytest.mark.long
@pytest.mark.parametrize("version", ["v1", "v2"])
def test_each_operation_can_be_tried_with_the_initial_values_of_its_page(
    stack: Stack, other_site: int, stranger: Person, version: str
) -> None:
    reader, refused, wide = Reader(stack, stranger.page, version), {}, []
    stranger.page.set_viewport_size({"width": min(WIDTHS), "height": HEIGHT})
    # The sample's host is on the internet, which tests do not reach.
    hook = samples.REQUESTS["NewWebhook"] | {"url": f"http://127.0.0.1:{other_site}/"}
    reader.values["add_webhook"] = {"Body": json.dumps(hook)}
    for name in operations(stack.url, version):
        shown = reader.send(name)
        if not shown.startswith("2"):
            refused[name] = shown[:1000]
        if stranger.page.evaluate(WIDER) > 0:
            wide.append(name)
        reader.learn(name, shown)
    reader.http.close()
    assert (refused, wide) == ({}, [])


@pytest.mark.long
def test_the_documentation_passes_axe_in_both_themes_and_widths(stranger: Person) -> None:
    paths = ("/docs", "/docs/v2", "/docs/v1/list_deliveries", "/docs/how-to/dashboard")
    assert [fault for path in paths for fault in stranger.faults(path)] == []


def test_an_operation_is_a_short_page_that_shows_the_answer(stranger: Person) -> None:
    page = stranger.page
    page.goto("/docs/v1/benchmark")
    assert page.evaluate("document.documentElement.scrollHeight") < 2_500
    page.get_by_role("button", name="Send").click()
    expect(page.locator("#answer-status")).to_have_text("401 Unauthorized")


@pytest.mark.long
def test_the_parts_of_an_operations_page_pass_axe_when_they_are_opened(stranger: Person) -> None:
    page = stranger.page
    page.goto("/docs/v1/benchmark")
    page.get_by_role("button", name="Send").click()
    expect(page.locator("#answer-status")).to_have_text("401 Unauthorized")
    page.evaluate("document.querySelectorAll('details').forEach((one) => { one.open = true; })")
    page.evaluate(AXE.read_text())
    assert [fault for fault in page.evaluate(RULES) if fault["impact"] in SEVERE] == []
