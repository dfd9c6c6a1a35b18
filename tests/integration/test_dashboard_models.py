"""Generating, benchmarking and watching models in a real browser."""

import json
import re
import secrets
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import psycopg
import pytest
from playwright.sync_api import Browser, Page, expect

from integration.caller import Account
from integration.chromium import HEIGHT, WIDTHS, Person
from local.stack import Stack

MODEL = "lilypad/tiny-text-classification"
RUN = re.compile(r".*/dashboard/benchmarks/bench_[0-9a-f]+$")
# A model's name and a metric's unit that would run as script if they were not escaped.
HOSTILE = "<img src=x onerror=alert(1)>'\"{{7*7}}</script><script>alert(2)</script>"
TIMEOUT_MS = 300_000


@pytest.fixture(scope="module")
def window(stack: Stack, browser: Browser) -> Iterator[Person]:
    window = Person(browser, stack.url)
    yield window
    window.context.close()


@pytest.fixture
def person(window: Person, account: Account) -> Iterator[Person]:
    """Logged in to an account of the test's own, in the window that all tests share."""
    window.log_in(account.email)
    window.page.set_viewport_size({"width": WIDTHS[0], "height": HEIGHT})
    yield window
    window.page.goto("about:blank")  # ends its sockets
    complaints, window.complaints = window.complaints, []
    assert complaints == []


def generate(page: Page, model: str) -> None:
    page.goto("/dashboard/generate")
    page.get_by_label("Model on the Hugging Face Hub").fill(model)
    page.get_by_role("button", name="Generate", exact=True).click()


def record(account: Account, model: str, count: int = 1, **metrics: float) -> None:
    now = datetime.now(UTC)
    records = [
        {
            "modelId": model,
            "timestamp": (now - timedelta(seconds=place)).isoformat(),
            "metrics": metrics,
        }
        for place in reversed(range(count))
    ]
    headers = {"X-Lilypad-Beta": "v2"}
    answer = account.post("/v2/api/monitor/record", {"records": records}, headers=headers)
    assert answer.status_code == 200, answer.text


def test_a_module_is_generated_verified_downloaded_and_generated_again(person: Person) -> None:
    page = person.page
    generate(page, MODEL)
    expect(page.get_by_role("heading", name=MODEL)).to_be_visible()
    expect(page.locator("dd", has_text="apache-2.0").first).to_be_visible()
    expect(page.get_by_role("row", name="memoryMiB")).to_contain_text("headers")
    page.locator("summary", has_text="run_inference.py").click()
    expect(page.locator("pre[aria-label='run_inference.py'] .kn").first).to_be_visible()
    with page.expect_download() as waiting:
        page.get_by_role("button", name="Download the zip").click()
    assert waiting.value.suggested_filename.endswith(".zip")
    page.get_by_role("button", name="Verify: run it once").click()
    answer = page.locator("#verification pre", has_text='"status": "success"')
    expect(answer).to_be_visible(timeout=TIMEOUT_MS)
    assert person.faults("/dashboard/generate/history") == []
    page.get_by_role("button", name="Generate again").last.click()
    expect(page.get_by_role("heading", name=MODEL)).to_be_visible()
    commit = page.get_by_label("Revision").input_value()
    assert page.locator(f"code[title='{commit}']").is_visible()


@pytest.mark.parametrize(
    ("model", "help"),
    [
        ("lilypad/tiny-gated", "Ask for access"),
        ("lilypad/tiny-malicious-pickle", "safetensors"),
        ("http://169.254.169.254/", "https://huggingface.co is read"),
    ],
)
def test_a_refusal_says_what_would_help(person: Person, model: str, help: str) -> None:
    generate(person.page, model)
    expect(person.page.locator(".refusal")).to_contain_text(help)


def test_hostile_cards_and_names_run_no_script(person: Person, account: Account) -> None:
    page = person.open()
    page.on("dialog", lambda dialog: person.complaints.append(dialog.message))
    for model in ("lilypad/tiny-hostile-card", "lilypad/tiny-hostile-names", HOSTILE):
        generate(page, model)
        page.locator("#verdict, .refusal").wait_for()
    record(account, HOSTILE, latency=1.0)
    page.goto("/dashboard/models")
    page.get_by_role("link", name=HOSTILE).click()
    expect(page.get_by_role("heading", level=1)).to_have_text(HOSTILE)
    page.locator(".uplot canvas").first.wait_for()
    assert page.locator("main img, main script").count() == 0
    page.close()


def test_a_live_chart_keeps_the_zoom_of_its_user(person: Person, account: Account) -> None:
    page = person.page
    page.goto(f"/dashboard/models/watch?model={MODEL}&window=hour")
    connection = page.locator("#connection")
    expect(connection).to_contain_text("Live")
    record(account, MODEL, latency=12.5)
    chart = page.locator(".chart[data-metric=latency]")
    chart.locator("canvas").wait_for()
    expect(connection).to_contain_text("Last update")
    # A newcomer's single sample is shown within a minute, not within years.
    page.wait_for_function(
        "(figure) => { const { min, max } = figure.drawn.u.scales.x; return max - min === 60; }",
        arg=chart.element_handle(),
    )
    record(account, MODEL, 60, latency=14.0, throughput=80.0)
    page.reload()
    expect(connection).to_contain_text("Live")
    expect(connection).to_contain_text("Last update")
    metrics = page.locator(".chart").evaluate_all("all => all.map((one) => one.dataset.metric)")
    assert metrics == ["throughput", "latency"]
    over = chart.locator(".u-over")
    box = over.bounding_box()
    assert box
    page.mouse.move(box["x"] + 40, box["y"] + 50)
    page.mouse.down()
    page.mouse.move(box["x"] + 140, box["y"] + 60, steps=4)
    page.mouse.up()
    before = zoom(page)
    for _ in range(5):
        record(account, MODEL, latency=15.0)
    page.wait_for_function(
        "figure => figure.drawn.chart.series[0].value.includes(15)", arg=chart.element_handle()
    )
    assert zoom(page) == before
    page.get_by_role("button", name="Follow").click()
    assert zoom(page) != before


def zoom(page: Page) -> Any:
    figure = "document.querySelector('.chart[data-metric=latency]').drawn"
    return page.evaluate(f"(({{ min, max }}) => [min, max])({figure}.u.scales.x)")


def test_two_hundred_updates_a_second_cause_at_most_twelve_redraws(
    person: Person, account: Account
) -> None:
    record(account, MODEL, 30, latency=12.0)
    page = person.page
    page.goto(f"/dashboard/models/watch?model={MODEL}&window=hour")
    page.locator(".chart[data-metric=latency] canvas").wait_for()
    redraws = page.evaluate("""async () => {
      const { drawn } = document.querySelector('.chart[data-metric=latency]');
      const sleep = (ms) => new Promise((resolve) => setTimeout(resolve, ms));
      await sleep(500);
      const before = drawn.redraws;
      const begin = performance.now();
      for (let sent = 0; sent < 400; ) {
        const due = (performance.now() - begin) / 5;
        for (; sent < due; sent += 1) drawn.append(Date.now() / 1000, 12 + (sent % 7));
        await sleep(5);
      }
      return (drawn.redraws - before) * 1000 / (performance.now() - begin);
    }""")
    assert 0 < redraws <= 12


def test_a_chart_is_read_with_the_keyboard_and_as_a_table(person: Person, account: Account) -> None:
    record(account, MODEL, 60, latency=12.5)
    page = person.page
    page.goto(f"/dashboard/models/watch?model={MODEL}&window=hour")
    # Updates that were missed are drawn before the page says that it is live.
    expect(page.locator("#connection")).to_contain_text("Live")
    chart = page.get_by_role("application", name="Latency")
    chart.focus()
    expect(chart).to_be_focused()
    page.keyboard.press("End")
    expect(page.locator(".chart .reading").first).to_contain_text("12.5 ms")
    expect(page.locator("#status")).to_contain_text("12.5 ms")
    page.get_by_text("As a table").first.click()
    expect(page.locator(".chart details li")).to_have_count(50)
    page.get_by_role("button", name="Next").click()
    expect(page.locator(".chart details li")).to_have_count(10)


def test_a_page_polls_while_its_socket_is_disconnected(person: Person, account: Account) -> None:
    record(account, MODEL, latency=12.5)
    page = person.page
    page.route("**/socket.io/**", lambda route: route.abort())
    page.goto(f"/dashboard/models/watch?model={MODEL}")
    expect(page.locator("#connection")).to_contain_text("Polling")
    record(account, MODEL, latency=99.0)
    page.wait_for_function(
        "() => document.querySelector('.chart').drawn.chart.series[0].value.includes(99)"
    )
    page.unroute("**/socket.io/**")
    expect(page.locator("#connection")).to_contain_text("Live")
    person.complaints.clear()  # the requests that were aborted


def test_an_alert_appears_on_an_open_page_and_is_acknowledged(
    person: Person, account: Account
) -> None:
    page = person.page
    page.goto(f"/dashboard/models/watch?model={MODEL}")
    page.get_by_text("Add a rule").click()
    page.get_by_label("Metric").fill("latency")
    page.get_by_label("Above").fill("very")
    page.get_by_role("button", name="Add the rule").click()
    above = page.get_by_label("Above")
    expect(above).to_have_accessible_description(re.compile("Must be a number"))
    expect(above).to_be_focused()
    expect(page.get_by_label("Metric")).to_have_value("latency")
    above.fill("250")
    page.get_by_role("button", name="Add the rule").click()
    expect(page.locator("#alerts")).to_contain_text("latency above 250")
    expect(page.locator("#connection")).to_contain_text("Live")
    record(account, MODEL, latency=400.0)
    page.get_by_role("button", name="Acknowledge").click()
    expect(page.locator("#alerts")).to_contain_text("acknowledged")
    rule = page.locator("#alerts li", has_text="latency above 250")
    rule.get_by_role("button", name="Mute").click()
    expect(rule).to_contain_text("muted")


def propose(page: Page, price: str | re.Pattern[str]) -> None:
    """Fill in a benchmark's form, and wait for its expected start and cost."""
    page.goto("/dashboard/benchmarks")
    page.get_by_label("Model", exact=True).fill(f"https://huggingface.co/{MODEL}")
    page.get_by_label("Batch sizes").fill("1, 2")
    expect(page.locator("#quote")).to_contain_text(price)
    expect(page.locator("#quote")).to_contain_text(re.compile(r"queue\s*\d"))


def measure_again(stack: Stack, run: str) -> None:
    """Store another run with the same figures; measuring it would take half a minute."""
    another = json.dumps({"id": f"bench_{secrets.token_hex(12)}"})
    with psycopg.connect(stack.postgres.url("benchmarker"), autocommit=True) as database:
        database.execute(
            "insert into benchmarker.runs"
            " select (jsonb_populate_record(runs, %s)).* from benchmarker.runs where id = %s",
            [another, run],
        )


def test_a_run_is_started_followed_compared_exported_and_made_public(
    stack: Stack, browser: Browser, person: Person
) -> None:
    page = person.page
    propose(page, "not measured yet")
    page.get_by_text("Options").click()
    page.get_by_label("Price of the machine").fill("1.5")
    page.get_by_label("Timed calls per size").fill("2")
    page.get_by_role("button", name="Start").click()
    page.wait_for_url(RUN)
    page.get_by_role("heading", name="Results").wait_for(timeout=TIMEOUT_MS)
    for stage in ("Waiting", "Fetching", "Loading", "Warming", "Measuring"):
        expect(page.locator("#progress li", has_text=stage)).to_contain_text(re.compile(r"\d m?s"))
    page.locator(".chart canvas").first.wait_for()
    assert person.faults(page.url) == []
    for kind in ("JSON", "CSV"):
        with page.expect_download() as waiting:
            page.get_by_role("link", name=kind, exact=True).click()
        assert "throughput" in waiting.value.path().read_text()
    page.once("dialog", lambda dialog: dialog.accept())
    page.get_by_role("button", name="Make public").click()
    public = page.get_by_role("link", name="/runs/").get_attribute("href")
    stranger = Person(browser, stack.url)
    badge = stranger.page.request.get(f"{public}/badge.svg")
    assert (badge.status, badge.headers["content-type"]) == (200, "image/svg+xml")
    assert len(badge.body()) < 2048
    assert "tiny-text-classification" in badge.text()
    assert stranger.faults(public or "") == []
    page.get_by_role("button", name="Make private").click()
    page.get_by_role("button", name="Make public").wait_for()
    assert stranger.page.request.get(public or "").status == 404
    stranger.context.close()
    measure_again(stack, page.url.rpartition("/")[2])
    propose(page, re.compile(r"\$.* as measured last"))
    for box in page.get_by_role("checkbox", name="Compare").all():
        box.check()
    page.get_by_role("button", name="Compare the chosen").click()
    lines = page.locator(".legend").first.get_by_role("listitem")
    expect(lines).to_have_text([re.compile("^A: "), re.compile("^B: ")])
    verdict = page.get_by_role("row").nth(1)
    expect(verdict).to_contain_text(re.compile("a tie|% faster|no interval"))


def test_a_waiting_or_running_run_can_be_canceled(person: Person) -> None:
    page = person.page
    page.goto(f"/dashboard/benchmarks?model={MODEL}")
    page.get_by_label("Batch sizes").fill("0")
    page.get_by_role("button", name="Start").click()
    sizes = page.get_by_label("Batch sizes")
    expect(sizes).to_have_accessible_description(re.compile("Item 1: Must be at least 1"))
    page.get_by_label("Batch sizes").fill("1 2 4 8 16 32")
    page.get_by_text("Options").click()
    page.get_by_label("Timed calls per size").fill("10000")
    page.get_by_role("button", name="Start").click()
    page.wait_for_url(RUN)
    page.get_by_role("button", name="Cancel the run").click()
    expect(page.locator("#progress")).to_contain_text("canceled")


def test_model_pages_pass_axe_and_fit_in_both_themes_and_widths(
    person: Person, account: Account
) -> None:
    record(account, MODEL, 30, latency=12.5, cost_per_inference=1e-5)
    assert account.post("/v1/api/monitor", {"modelId": 7}).status_code == 400
    paths = (
        f"/dashboard/models/watch?model={MODEL}",
        "/dashboard/models",
        "/dashboard/benchmarks",
        "/dashboard/generate",
        "/dashboard/usage",
    )
    assert [fault for path in paths for fault in person.faults(path)] == []
    # The usage page is the last; counts are written within seconds.
    page = person.page
    while not page.get_by_role("row", name="1003: 1").count():
        page.wait_for_timeout(2000)  # a hundred pages a minute are the limit
        page.reload()
    expect(page.get_by_role("row", name="1003: 1")).to_contain_text("test")
    limits = page.get_by_role("region", name="Limits", exact=True)
    assert limits.evaluate("(table) => [innerWidth, table.scrollWidth <= table.clientWidth]") == [
        WIDTHS[-1],
        True,
    ]
    left = {"Generations and downloads": "10", "Benchmark runs": "5", "Verified modules": "20"}
    for name, number in left.items():
        cell = page.get_by_role("row", name=name).get_by_role("cell").first
        expect(cell).to_contain_text(f"{number}of ")
    assert account.post("/v1/api/generate", {"modelUrl": MODEL}).status_code == 200
    for _ in range(2):
        page.reload()
        generations = page.get_by_role("row", name="Generations").get_by_role("cell")
        expect(generations.first).to_contain_text("9of 10 in any minute")
