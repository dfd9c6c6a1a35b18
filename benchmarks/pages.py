"""The pages in a person's browser, with an account that holds years of data."""

import asyncio
import json
import shutil
import statistics
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Any

import httpx2
import psycopg
from playwright.sync_api import Page

from benchmarks.monitoring import METRICS, Connection, fill, post_all
from benchmarks.processes import ROOT, require
from benchmarks.report import Report, figure
from hub.testing import RunningHub
from integration.caller import Account
from integration.chromium import Person, chromium
from integration.pages import NODE
from local.stack import Stack

MODEL = "lilypad/tiny-text-classification"
SAMPLES, RUNS, GENERATIONS = 10_000_000, 1_000, 1_000
REQUESTS = 40
POINTS = 100_000
# Installed when it is first needed; it is too large for every set-up.
LIGHTHOUSE = "lighthouse@12.8.2"
PROGRAM = ROOT / ".venv-bench" / "lighthouse" / "node_modules" / "lighthouse" / "cli" / "index.js"
CATEGORIES = {"accessibility": "accessibility", "best-practices": "best practices"}
PAINT = """
new Promise((done) => new PerformanceObserver((list) => {
  for (const paint of list.getEntriesByName('first-contentful-paint')) done(paint.startTime);
}).observe({ type: 'paint', buffered: true }))
"""
DRAW = """
async (count) => {
  const longest = [0];
  new PerformanceObserver((list) => {
    for (const task of list.getEntries()) longest[0] = Math.max(longest[0], task.duration);
  }).observe({ type: 'longtask', buffered: false });
  const sleep = (ms) => new Promise((done) => setTimeout(done, ms));
  // A task of 100 ms, to know that the browser reports any.
  await sleep(1);
  const begun = performance.now();
  while (performance.now() - begun < 100);
  await sleep(500);
  if (longest[0] < 100) throw new Error('the browser reports no long tasks');
  longest[0] = 0;
  const { Chart } = await import(document.querySelector('script[src*="chart.js"]')?.src ?? '%s');
  const x = Array.from({ length: count }, (_, place) => 1.7e9 + place);
  const value = x.map((at) => 10 + Math.sin(at / 500) + Math.random());
  const low = value.map((one) => one - 1);
  const high = value.map((one) => one + 1);
  const figure = document.createElement('figure');
  document.querySelector('main').append(figure);
  const series = [{ name: 'latency', value, low, high }];
  const chart = new Chart(figure, { title: 'latency', unit: 'ms', time: true, x, series });
  await sleep(1000);
  for (let added = 0; added < 20; added += 1) {
    chart.append(1.7e9 + count + added, 10);
    await sleep(100);
  }
  chart.plot.dispatchEvent(new KeyboardEvent('keydown', { key: 'End' }));
  chart.table.open = true;
  await sleep(1000);
  chart.follow();
  await sleep(1000);
  return longest[0];
}
"""


def measure() -> Report:
    require("chromium")
    report = Report("Pages, with 10 million samples, 1,000 runs and 1,000 generations")
    with (
        RunningHub(first=[MODEL]) as hub,
        Stack(environment={"HF_ENDPOINT": hub.url, "RATE_API": "1000000"}) as stack,
    ):
        account = Account(stack.url)
        paths = _fill(stack, account)
        with chromium() as browser:
            person = Person(browser, stack.url)
            _first_page(person, report)
            person.log_in(account.email)
            _server_time(person, paths, report)
            _large_chart(person, report)
            _lighthouse(person, paths, report)
    return report


def _fill(stack: Stack, account: Account) -> list[str]:
    """Give the account its samples, runs and generations; return the addresses of its pages."""
    models = [{"modelId": f"h{n}", "metrics": dict.fromkeys(METRICS, 1.0)} for n in range(10)]
    bodies = [json.dumps({"records": models}).encode()]
    asyncio.run(post_all(Connection(stack, account, "/v2/api/monitor/record"), bodies))
    fill(stack, 0, SAMPLES)
    generated = account.post("/v1/api/generate", {"modelUrl": MODEL}, timeout=600)
    assert generated.status_code == 200, generated.text
    body = {"modelId": MODEL, "batchSizes": [1, 2, 4]}
    run = account.post("/v1/api/benchmark", body, timeout=600).json()["data"]["id"]
    # The list is written each second.
    time.sleep(2)
    with psycopg.connect(stack.postgres.url(), autocommit=True) as database:
        _copy(database, "benchmarker.runs", RUNS, account.id)
        _copy(database, "gateway.generations", GENERATIONS, account.id)
        database.execute("analyze")
    return [
        "/",
        "/dashboard",
        "/dashboard/keys",
        "/dashboard/generate",
        "/dashboard/generate/history",
        "/dashboard/benchmarks",
        f"/dashboard/benchmarks?model={MODEL}",
        f"/dashboard/benchmarks/{run}",
        "/dashboard/models",
        "/dashboard/models/watch?model=h0",
        "/dashboard/models/watch?model=h0&window=month",
        "/dashboard/models/watch?model=h0&window=year",
        "/dashboard/usage",
        "/dashboard/account",
    ]


def _copy(database: psycopg.Connection[Any], table: str, count: int, account: str) -> None:
    """Store copies of the account's row, each a minute older than the one before."""
    schema, _, name = table.partition(".")
    owner = "account" if schema == "benchmarker" else "account_id"
    columns = [
        column
        for (column,) in database.execute(
            "select column_name from information_schema.columns"
            " where table_schema = %s and table_name = %s",
            [schema, name],
        )
    ]
    new = {
        "id": "id || '_' || number",
        "created_at": "created_at - number * interval '1 minute'",
        "idempotency_key": "null",
        "verification": "null",
    }
    values = ", ".join(new.get(column, column) for column in columns)
    copied = database.execute(
        f"insert into {table} ({', '.join(columns)}) select {values}"
        f" from (select * from {table} where {owner} = %s limit 1) as row,"
        " generate_series(1, %s) as number",
        [account, count - 1],
    )
    assert copied.rowcount == count - 1, f"{table} holds no row of the account"


def _first_page(person: Person, report: Report) -> None:
    transferred = 0
    drawn = []
    for _ in range(5):
        person.page.goto("/", wait_until="networkidle")
        sizes = "performance.getEntriesByType('resource').map((one) => one.transferSize)"
        page = "performance.getEntriesByType('navigation')[0].transferSize"
        transferred = transferred or int(
            sum(person.page.evaluate(sizes)) + person.page.evaluate(page)
        )
        drawn.append(person.page.evaluate(PAINT))
    report.add(figure("first page: transferred", transferred / 1e3, "KB", at_most=150))
    report.add(figure("first page: drawn after", statistics.median(drawn), "ms", at_most=1000))


def _server_time(person: Person, paths: list[str], report: Report) -> None:
    """Time requests one after the other, as the edge answers them."""
    cookies = {cookie["name"]: cookie["value"] for cookie in person.context.cookies()}
    header = {"Cookie": "; ".join(f"{name}={value}" for name, value in cookies.items())}
    slowest = {}
    with httpx2.Client(base_url=person.url, headers=header, timeout=60) as http:
        for path in paths:
            times = []
            for _ in range(REQUESTS):
                begun = time.perf_counter()
                answer = http.get(path)
                times.append((time.perf_counter() - begun) * 1e3)
                assert answer.status_code == 200, (path, answer.status_code)
            slowest[path] = statistics.quantiles(times, n=20)[-1]
    worst = max(slowest, key=lambda path: slowest[path])
    name = "slowest page's server time, 95th percentile"
    report.add(figure(name, slowest[worst], "ms", at_most=100))
    report.notes += [f"{path}: {slowest[path]:.0f} ms" for path in paths]


def _large_chart(person: Person, report: Report) -> None:
    person.page.goto("/dashboard/models/watch?model=h0&window=month")
    person.page.locator(".chart canvas").first.wait_for()
    longest = float(person.page.evaluate(DRAW % _script(person.page), POINTS))
    # The browser reports tasks from 50 ms on.
    longest = max(longest, 50.0)
    report.add(figure(f"longest task of a chart of {POINTS:,} points", longest, "ms", at_most=200))


def _script(page: Page) -> str:
    """Return the address of the chart's module, as the page loaded it."""
    names = "performance.getEntriesByType('resource').map((one) => one.name)"
    return next(str(name) for name in page.evaluate(names) if "/chart" in name)


def _lighthouse(person: Person, paths: list[str], report: Report) -> None:
    cookies = {cookie["name"]: cookie["value"] for cookie in person.context.cookies()}
    header = {"Cookie": "; ".join(f"{name}={value}" for name, value in cookies.items())}
    lowest = dict.fromkeys(CATEGORIES, (101.0, ""))
    _install()
    for path in paths:
        scores = _scores(person.url + path, header)
        for category, score in scores.items():
            lowest[category] = min(lowest[category], (score, path))
    for category, name in CATEGORIES.items():
        score, path = lowest[category]
        report.add(figure(f"Lighthouse, {name}: the lowest page", score, "points", at_least=95))
        report.notes.append(f"lowest for {name}: {path}")


def _install() -> None:
    if not PROGRAM.exists():
        folder = PROGRAM.parents[3]
        npm = Path(NODE).parents[1] / "lib" / "node_modules" / "npm" / "bin" / "npm-cli.js"
        options = ["--loglevel=error", "--no-audit", "--no-fund"]
        command = [NODE, str(npm), "install", "--prefix", str(folder), LIGHTHOUSE, *options]
        subprocess.run(command, check=True)


def _scores(url: str, headers: dict[str, str]) -> dict[str, float]:
    """Return a page's scores, 0 to 100."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "report.json"
        subprocess.run(
            [
                NODE,
                str(PROGRAM),
                url,
                "--quiet",
                "--output=json",
                f"--output-path={path}",
                f"--only-categories={','.join(CATEGORIES)}",
                f"--extra-headers={json.dumps(headers)}",
                "--chrome-flags=--headless=new --no-sandbox",
            ],
            check=True,
            env={"CHROME_PATH": shutil.which("chromium") or "", "PATH": "/usr/bin:/bin"},
        )
        categories = json.loads(path.read_text())["categories"]
    return {category: categories[category]["score"] * 100 for category in CATEGORIES}
