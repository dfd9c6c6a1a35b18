"""Pages, as far as they can be tested without a browser."""

import asyncio
import secrets
import threading
from datetime import UTC, datetime
from types import SimpleNamespace
from typing import Any

import httpx2
import pytest

from common.contracts.benchmarking import QUOTE, RUN_LIMITS
from common.contracts.monitoring import (
    LIST_MODELS,
    Finding,
    ModelsSelection,
    RecordedModel,
    RecordedModels,
)
from common.errors import Unavailable
from gateway.pages import figures, highlighting, report, site

from .conftest import Desk


async def log_in(http: httpx2.AsyncClient) -> str:
    """Register a person; return the session's cookie."""
    person = {"email": f"{secrets.token_hex(6)}@example.com", "password": "correct horse battery"}
    await http.post("/v1/api/accounts", json=person)
    answer = await http.post("/login", data=person)
    return answer.headers["set-cookie"].partition(";")[0]


async def test_concurrent_pages_of_an_account_are_bounded_like_its_requests(desk: Desk) -> None:
    async with desk.http(headers={"Sec-Fetch-Site": "same-origin"}) as http:
        cookie = await log_in(http)
        desk.guards.capacity.max_per_account = 0
        refused = await http.get("/dashboard", headers={"Cookie": cookie})
        desk.guards.capacity.max_per_account = 5
        shown = await http.get("/dashboard", headers={"Cookie": cookie})
    assert (refused.status_code, shown.status_code) == (503, 200)


async def test_the_overview_page_works_without_the_number_of_keys(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with desk.http(headers={"Sec-Fetch-Site": "same-origin"}) as http:
        cookie = {"Cookie": await log_in(http)}
        assert "0 API keys so far." in (await http.get("/dashboard", headers=cookie)).text

        async def list_keys(_: str) -> None:
            raise Unavailable("the database is unavailable")

        monkeypatch.setattr(desk.keyring, "list", list_keys)
        shown = (await http.get("/dashboard", headers=cookie)).text
    assert "API keys so far" not in shown
    assert "With an API key, from any program." in shown


@pytest.mark.parametrize("page", ["benchmarks/quote?modelId=a/b&device=cuda", "usage"])
async def test_a_missing_worker_is_reported_in_the_pages_wording(desk: Desk, page: str) -> None:
    async def refuse(_: Any) -> Any:
        raise Unavailable("`device`: no worker has cuda")

    desk.events.answer(QUOTE, refuse)
    desk.events.answer(RUN_LIMITS, refuse)
    async with desk.http(headers={"Sec-Fetch-Site": "same-origin"}) as http:
        cookie = {"Cookie": await log_in(http)}
        shown = (await http.get(f"/dashboard/{page}", headers=cookie)).text
    assert "“Device”: no worker has cuda." in shown


async def test_a_models_page_reads_no_other_model_of_the_account(desk: Desk) -> None:
    listed: list[str | None] = []

    async def list_models(request: ModelsSelection) -> RecordedModels:
        listed.append(request.model_id)
        found = [RecordedModel(model_id="o/m", metrics=["loss"])]
        return RecordedModels(models=found, next="o/m" if len(listed) < 3 else None)

    desk.events.answer(LIST_MODELS, list_models)
    async with desk.http(headers={"Sec-Fetch-Site": "same-origin"}) as http:
        cookie = {"Cookie": await log_in(http)}
        shown = await http.get("/dashboard/models/series?model=o/m", headers=cookie)
    assert (shown.status_code, listed) == (200, ["o/m"])


async def test_other_requests_are_answered_while_openapi_is_generated(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun, may_end = threading.Event(), threading.Event()

    def slow() -> dict[str, str]:
        begun.set()
        assert may_end.wait(20), "nothing else was answered meanwhile"
        return {"openapi": "3.1.0"}

    monkeypatch.setattr(desk.gateway.app, "openapi", slow)
    async with desk.http() as http:
        described = asyncio.create_task(http.get("/openapi.json"))
        while not begun.is_set():
            await asyncio.sleep(0)
        assert (await http.get("/healthz")).status_code == 200
        may_end.set()
        assert (await described).json() == {"openapi": "3.1.0"}


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.000000805, "8.05e-7"), (0.00001234, "0.0000123"), (2e15, "2e15"), (1234.5, "1,234")],
)
def test_a_number_has_an_exponent_where_that_is_shorter(value: float, text: str) -> None:
    assert figures.number(value) == text


def test_text_in_backticks_is_code_and_no_other_text_is_markup() -> None:
    shown = figures.marked("a higher `warmup`, <b>not</b> `<i>`")
    assert shown == "a higher <code>warmup</code>, &lt;b&gt;not&lt;/b&gt; <code>&lt;i&gt;</code>"


def test_an_error_on_a_page_shows_its_code_and_no_markup() -> None:
    parts: Any = site.Pages("https://lilypad.example")._templates.get_template("parts.html").module
    error = "did you mean `a/b`? <i>"
    shown = "did you mean <code>a/b</code>? &lt;i&gt;"
    assert shown in parts.problem(error)
    assert shown in parts.fault({"model": error}, "model", "m")


def test_times_in_advice_are_marked_and_other_text_is_no_markup() -> None:
    begin = datetime(2026, 11, 30, 7, 3, 34, tzinfo=UTC)
    end = datetime(2026, 11, 30, 9, 0, tzinfo=UTC)
    found = Finding(
        kind="incident", metric="latency", begin=begin, end=end, size=1, unit="ms", confidence=1
    )
    text = "<b> from Monday 30 November, 07:03 to Monday 30 November, 09:00 UTC."
    assert figures.timed(text, [found]) == (
        '&lt;b&gt; from <time datetime="2026-11-30T07:03:34+00:00" title="2026-11-30 07:03:34 UTC">'
        'Monday 30 November, 07:03 UTC</time> to <time datetime="2026-11-30T09:00:00+00:00"'
        ' title="2026-11-30 09:00:00 UTC">Monday 30 November, 09:00 UTC</time>.'
    )


def test_the_resources_of_a_module_exclude_its_measurement() -> None:
    manifest = "resources: {cpu: 4, measured: {run: bench_1}, sources: {cpu: usual}}"
    found = highlighting.resources({"module.yaml": manifest})
    assert [(resource.name, resource.value, resource.source) for resource in found] == [
        ("cpu", 4, "usual")
    ]


def test_a_comparison_names_what_differs_besides_the_models() -> None:
    def measured(dtype: str) -> Any:
        setup = SimpleNamespace(machine=SimpleNamespace(name="CPU"), dtype=dtype, attention="sdpa")
        return SimpleNamespace(results=SimpleNamespace(setup=setup))

    unmeasured: Any = SimpleNamespace(results=None)
    assert report.differences([measured("float32"), measured("float32"), unmeasured]) == []
    assert report.differences([measured("float32"), measured("bfloat16")]) == ["dtype"]


def run_of(mean_ms: float, interval: tuple[float, float] | None) -> Any:
    ends = SimpleNamespace(low=interval[0], high=interval[1]) if interval else None
    point = SimpleNamespace(
        batch_size=1,
        throughput=1000 / mean_ms,
        latency=SimpleNamespace(mean=mean_ms, mean_interval=ends),
        memory=SimpleNamespace(used=1),
        cost_per_inference=None,
    )
    results = SimpleNamespace(points=[point], errors=[], batch_sizes=[1])
    return SimpleNamespace(results=results, analysis=None)


@pytest.mark.parametrize(
    ("first", "second", "verdict"),
    [
        (run_of(10, (9, 11)), run_of(20, (19, 21)), "A is 100 % faster"),
        (run_of(20, (19, 21)), run_of(10, (9, 11)), "B is 100 % faster"),
        (run_of(10, (9, 11)), run_of(10.5, (10, 11)), "a tie: the intervals overlap"),
        # A latency whose interval reaches zero has a throughput without an upper bound.
        (run_of(10, (9, 11)), run_of(20, (-5, 45)), "a tie: the intervals overlap"),
        (run_of(10, (-1, 21)), run_of(50, (49, 51)), "A is 400 % faster"),
        (run_of(10, (9, 11)), run_of(20, None), "no interval: too few calls"),
    ],
)
def test_a_comparison_is_a_tie_where_the_intervals_overlap(
    first: Any, second: Any, verdict: str
) -> None:
    [comparison] = report.compare(["A", "B"], [first, second])
    assert comparison.verdicts == [verdict]


def test_a_throughput_without_an_upper_bound_has_an_open_interval_in_its_chart() -> None:
    [throughput, *_] = report.charts([("A", run_of(20, (-5, 40)))])
    [line] = throughput["series"]
    assert (line["value"], line["low"], line["high"]) == ([50], [25], [None])


def measured_at(minute: int, id: str, dtype: str = "float32", machine: str = "CPU") -> Any:
    setup = SimpleNamespace(
        machine=SimpleNamespace(name=machine), dtype=dtype, attention="sdpa", compiled=False
    )
    return SimpleNamespace(
        id=f"bench_{id}",
        model_id="openai/gpt2",
        created_at=datetime(2026, 11, 30, 7, minute, tzinfo=UTC),
        results=SimpleNamespace(setup=setup),
    )


def test_compared_runs_of_one_model_are_named_by_what_differs() -> None:
    first = measured_at(1, "00000001")
    assert report.names([first, measured_at(2, "00000002", "bfloat16", "GPU")]) == [
        "A: openai/gpt2 (CPU, float32)",
        "B: openai/gpt2 (GPU, bfloat16)",
    ]
    assert report.names([first, measured_at(2, "00000002")]) == [
        "A: openai/gpt2 (2026-11-30 07:01 UTC)",
        "B: openai/gpt2 (2026-11-30 07:02 UTC)",
    ]
    assert report.names([first, measured_at(1, "00000002")]) == [
        "A: openai/gpt2 (run 000001)",
        "B: openai/gpt2 (run 000002)",
    ]
    unmeasured: Any = SimpleNamespace(**{**vars(first), "id": "bench_3", "results": None})
    other: Any = SimpleNamespace(**{**vars(first), "model_id": "openai/gpt3"})
    assert report.names([first, other, unmeasured])[1] == "B: openai/gpt3"
