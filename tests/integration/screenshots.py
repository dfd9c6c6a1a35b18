"""Photograph every page, in light and dark, into docs/screenshots.

python -m integration.screenshots    (`make screenshots`; starts a stack and a small Hub)
python -m integration.screenshots http://127.0.0.1:8080 usage    (of a running stack; that page)
"""

import math
import random
import sys
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from playwright.sync_api import Page

from hub.testing import RunningHub
from integration.caller import Account
from integration.chromium import THEMES, Person, chromium
from local.stack import Stack

FOLDER = Path(__file__).parents[2] / "docs" / "screenshots"
MODEL = "lilypad/tiny-text-classification"
WATCHED = "openai/gpt2"
SIZE: Any = {"width": 1280, "height": 860}
RUN_MS = 600_000


def main() -> None:
    with RunningHub(first=[MODEL]) as hub, Stack(environment={"HF_ENDPOINT": hub.url}) as stack:
        take(stack.url)


def take(url: str, *names: str) -> None:
    """Photograph the named pages, or all."""
    account = Account(url)
    record(account)
    FOLDER.mkdir(parents=True, exist_ok=True)
    with chromium() as browser:
        person = Person(browser, url)
        person.page.set_viewport_size(SIZE)
        for name in ("start", "register", "login"):
            person.page.goto("/" if name == "start" else f"/{name}")
            photograph(person.page, name, names)
        person.log_in(account.email)
        for name in pages(person.page):
            photograph(person.page, name, names)
        person.context.close()


def pages(page: Page) -> Iterator[str]:
    """Navigate through all views; yield each view's name."""
    page.goto("/dashboard/generate")
    page.get_by_label("Model on the Hugging Face Hub").fill(MODEL)
    page.get_by_role("button", name="Generate", exact=True).click()
    page.locator("#verdict").wait_for()
    yield "generate"
    page.goto(f"/dashboard/benchmarks?model={MODEL}")
    page.get_by_label("Batch sizes").fill("1 2 4 8")
    yield "benchmark"
    page.get_by_role("button", name="Start").click()
    page.get_by_role("heading", name="Results").wait_for(timeout=RUN_MS)
    page.locator(".chart canvas").first.wait_for()
    yield "run"
    page.get_by_role("heading", name="Results").scroll_into_view_if_needed()
    page.evaluate("document.querySelector('.charts').scrollIntoView()")
    yield "run-charts"
    for name, address in (
        ("model", f"models/watch?model={WATCHED}"),
        ("models", "models"),
        ("keys", "keys"),
        ("usage", "usage"),
        ("history", "generate/history"),
        ("account", "account"),
        ("overview", ""),
    ):
        page.goto(f"/dashboard/{address}".rstrip("/"))
        if name == "model":
            page.locator("#connection", has_text="Live").wait_for()
        yield name


def photograph(page: Page, name: str, names: tuple[str, ...]) -> None:
    for theme in THEMES if name in names or not names else ():
        page.emulate_media(color_scheme=theme)
        # Charts are redrawn in the theme's colours.
        page.wait_for_timeout(300)
        page.screenshot(path=FOLDER / f"{name}-{theme}.png")


def record(account: Account) -> None:
    """Record a day of a model that gets slower an hour before the end."""
    noise = random.Random(1)
    now = datetime.now(UTC)
    # The last hour begins with the clock's, so that the advice does not depend on the minute.
    last = now.replace(minute=55, second=0, microsecond=0)
    last -= timedelta(hours=1) if last > now else timedelta()
    records = [
        {
            "modelId": WATCHED,
            "timestamp": (last - timedelta(minutes=5 * (287 - place))).isoformat(),
            "metrics": {
                "latency": 12 + 2 * math.sin(place / 20) + noise.gauss(0, 0.6) + 9 * (place > 275),
                "throughput": 80 + noise.gauss(0, 3),
                "memory_usage": 900 + noise.gauss(0, 5),
                "cost_per_inference": 1e-5 + noise.gauss(0, 2e-7),
            },
        }
        for place in range(288)
    ]
    headers = {"X-Lilypad-Beta": "v2"}
    answer = account.post("/v2/api/monitor/record", {"records": records}, headers=headers)
    assert answer.status_code == 200, answer.text


if __name__ == "__main__":
    if len(sys.argv) > 1:
        take(*sys.argv[1:])
    else:
        main()
