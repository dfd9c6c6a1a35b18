"""The generation and benchmark pages in a real browser."""

import json
import re
import secrets

import psycopg
import pytest
from playwright.sync_api import Browser, Page, expect

from integration.chromium import Person, generate
from local.stack import Stack

MODEL = "lilypad/tiny-text-classification"
RUN = re.compile(r".*/dashboard/benchmarks/bench_[0-9a-f]+$")
TIMEOUT_MS = 300_000


def test_a_module_is_generated_verified_downloaded_and_generated_again(person: Person) -> None:
    page = person.page
    generate(page, MODEL)
    expect(page.get_by_role("heading", name=MODEL)).to_be_visible()
    # It was disabled meanwhile.
    expect(page.get_by_role("button", name="Generate", exact=True)).to_be_focused()
    # One sentence for screen readers, not all that was swapped in.
    expect(page.locator("#status")).to_have_text(f"Module of {MODEL}: passed")
    expect(page.locator("[aria-live] #verdict")).to_have_count(0)
    expect(page.locator("dd", has_text="apache-2.0").first).to_be_visible()
    expect(page.get_by_role("row", name="memoryMiB")).to_contain_text("headers")
    sources = page.locator("section[aria-labelledby=resources] td:last-child").all_inner_texts()
    assert all(sources), "a figure without its source"
    page.locator("summary", has_text="run_inference.py").click()
    expect(page.locator("pre[aria-label='run_inference.py'] .kn").first).to_be_visible()
    with page.expect_download() as waiting:
        page.get_by_role("button", name="Download the zip").click()
    assert waiting.value.suggested_filename.endswith(".zip")
    page.get_by_role("button", name="Verify: run it once").click()
    answer = page.locator("#verification pre", has_text='"status": "success"')
    expect(answer).to_be_visible(timeout=TIMEOUT_MS)
    expect(page.locator("#status")).to_have_text("Verification passed")
    assert person.faults("/dashboard/generate/history") == []
    page.get_by_role("button", name="Generate again").last.click()
    expect(page.get_by_role("heading", name=MODEL)).to_be_visible()
    commit = page.get_by_label("Revision").input_value()
    assert page.locator(f"code[title='{commit}']").is_visible()


def test_an_error_in_an_option_is_shown_beside_its_field_until_corrected(
    person: Person,
) -> None:
    page = person.page
    page.goto("/dashboard/generate")
    page.get_by_label("Model on the Hugging Face Hub").fill(MODEL)
    page.get_by_text("Options").click()
    batch, memory = page.get_by_label("Inputs at once"), page.get_by_label("Memory", exact=True)
    batch.fill("four")
    memory.fill("8 frogs")
    page.get_by_role("button", name="Generate", exact=True).click()
    expect(batch).to_have_accessible_description("Must be a whole number, such as 4.")
    expect(batch).to_be_focused()
    expect(memory).to_have_accessible_description(re.compile("Must be a whole number with a unit"))
    expect(page.locator(".refusal")).to_contain_text("Correct the fields that are marked above")
    # An answer of the edge, and none at all, leave the page as it is.
    for answer in (
        lambda route: route.fulfill(status=503, json={"data": None}),
        lambda route: route.abort(),
    ):
        page.route("**/generate", answer)
        page.get_by_role("button", name="Generate", exact=True).click()
        expect(page.locator("#trouble")).to_contain_text("The service did not answer")
        expect(batch).to_have_value("four")
        page.unroute("**/generate")
    batch.fill("4")
    memory.fill("8GB")
    page.get_by_role("button", name="Generate", exact=True).click()
    page.locator("#verdict").wait_for()
    expect(page.locator(".fault")).to_have_count(0)
    expect(memory).to_have_value("8GB")
    expect(page.locator("#trouble")).to_be_hidden()
    person.complaints.clear()  # the request that was aborted


@pytest.mark.parametrize(
    ("model", "help"),
    [
        ("lilypad/tiny-gated", "Ask for access"),
        ("lilypad/tiny-malicious-pickle", "safetensors"),
        ("http://169.254.169.254/", "models on https://huggingface.co are served"),
    ],
)
def test_a_refused_module_shows_advice(person: Person, model: str, help: str) -> None:
    generate(person.page, model)
    expect(person.page.locator(".refusal")).to_contain_text(help)


def propose(page: Page, price: str | re.Pattern[str]) -> None:
    """Fill in a benchmark's form, and wait for its expected start and cost."""
    page.goto("/dashboard/benchmarks")
    expect(page.locator("#quote")).not_to_contain_text("measured")  # no model is chosen
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
    expect(page.get_by_role("heading", name="Public")).to_be_focused()
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
    expect(page.locator("#compare li").first).to_contain_text(
        re.compile(r"\d/s at batch size [12], .* ms, \$.* per 1,000 inferences \(float32, .*\)")
    )
    boxes = page.get_by_role("checkbox", name="Compare")
    boxes.first.check()
    page.get_by_role("button", name="Compare the chosen").click()
    expect(page.get_by_role("alert").first).to_have_text("Choose 2 to 4 runs from the list.")
    expect(boxes.first).to_be_checked()
    boxes.last.check()
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
    other = person.open()
    other.goto(page.url)
    page.get_by_role("button", name="Cancel the run").click()
    expect(page.locator("#progress")).to_contain_text("canceled")
    # A page that follows the run is loaded anew, and then says why.
    expect(other.locator("#status")).to_have_text("Run canceled")
    other.close()
