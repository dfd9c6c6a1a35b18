"""Figures of the dashboard's pages, as far as they can be tested without a browser."""

import asyncio
import itertools
import json
import re
import threading
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import Any

import pytest
from pydantic_core import to_json

from common.contracts.monitoring import Finding, Monitoring
from common.contracts.reading import READ_SAMPLES, RecordedSamples, Sample, SamplesRequest
from common.errors import Unavailable
from common.testing import MemoryBus
from gateway.pages import figures, plots, site


def incident(begin: datetime) -> Finding:
    return Finding(
        kind="incident", metric="latency", begin=begin, end=None, size=1, unit="ms", confidence=1
    )


def test_of_two_times_within_a_minute_only_the_earlier_is_marked() -> None:
    minute = datetime(2026, 11, 30, 7, 3, tzinfo=UTC)
    found = [incident(minute.replace(second=second)) for second in (34, 5, 59)]
    element = (
        '<time datetime="2026-11-30T07:03:05+00:00" title="2026-11-30 07:03:05 UTC">'
        "Monday 30 November, 07:03 UTC</time>"
    )
    text = "Since Monday 30 November, 07:03 UTC latency is higher."
    assert figures.timed(text, found) == f"Since {element} latency is higher."
    assert figures.timed(text, []) == text


PERSIAN = "\u0645\u06cc\u200c\u062e\u0648\u0627\u0647\u0645"
HINDI = "\u0915\u094d\u200d\u0937"
EMOJI = (
    "\U0001f469\U0001f3fd\u200d\U0001f4bb",  # a woman at a computer
    "\U0001f441\ufe0f\u200d\U0001f5e8\ufe0f",  # an eye in a speech bubble
    "1\ufe0f\u20e3",
    "\U0001f3f4\U000e0067\U000e0062\U000e0065\U000e006e\U000e0067\U000e007f",  # England's flag
    "\u845b\U000e0100",  # an ideograph in another shape
)


@pytest.mark.parametrize(
    ("text", "written"),
    [
        ("open\u200bai", r"open\u200bai"),
        ("gpt\u202e2", r"gpt\u202e2"),
        ("gp\u200dt2", r"gp\u200dt2"),
        ("gpt\u200dé", r"gpt\u200dé"),
        ("\u043f\u200c\u0433", "\u043f\\u200c\u0433"),
        ("\u200c\u0645", "\\u200c\u0645"),
        ("\u0645\u200d", "\u0645\\u200d"),
        (PERSIAN, PERSIAN),
        (HINDI, HINDI),
        ("\u3164\u2800\u115f\u1160\uffa0\u180e", r"\u3164\u2800\u115f\u1160\uffa0\u180e"),
        ("a\u034f\ufe00\ufe0f\ufff9\ufffb\x07", r"a\u034f\ufe00\ufe0f\ufff9\ufffb\u0007"),
        ("a\U000e0041\U000e0100", r"a\udb40\udc41\udb40\udd00"),
        ("\U0001f3f4\U000e0067\U000e007f", "\U0001f3f4\\udb40\\udc67\\udb40\\udc7f"),
    ],
)
def test_characters_that_make_a_name_look_like_another_are_written_out(
    text: str, written: str
) -> None:
    assert figures.visible(text) == written
    assert figures.prose(text) == written
    assert figures.finalize(text) == written
    assert json.loads(figures.pretty(text)) == text
    assert json.loads(figures.compact(text)) == text


@pytest.mark.parametrize("emoji", EMOJI)
def test_an_emoji_is_unchanged_in_prose_and_escaped_in_a_name(emoji: str) -> None:
    assert figures.prose(f"It is {emoji}!") == f"It is {emoji}!"
    assert figures.visible(emoji) != emoji
    # A second mark after an emoji changes nothing but the text.
    assert "\\u" in figures.prose(f"{emoji}\ufe0f\ufe0f")


def test_unusual_spaces_are_escaped_in_names_but_not_in_prose() -> None:
    assert figures.visible("a\u00a0b\u3000c") == r"a\u00a0b\u3000c"
    assert figures.prose("5\u00a0ms\n") == "5\u00a0ms\n"


# What a person typed, or a script or another request reads, stays as it is.
FIELD = re.compile(r' (?:value|data-model|data-metric)="\{\{ ([^}]*) \}\}"')
OWN = {
    "number",
    "scope",
    "days",
    "run.id",
    "choice",
    "window",
    "kind",
    "value",
    "run.progress.done",
}


def test_templates_leave_the_text_of_every_form_field_unchanged() -> None:
    fields = {
        field
        for path in (site.PACKAGE / "templates").iterdir()
        for field in FIELD.findall(path.read_text())
    }
    assert "key.name|raw" in fields
    assert {field for field in fields if not field.endswith("|raw")} - OWN == {
        "'off' if account.beta else 'on'"
    }


class Metrics(MemoryBus):
    """A metrics service in which each metric has ten samples a second, since `oldest`."""

    def __init__(self, count_by_metric: dict[str, int]) -> None:
        super().__init__()
        self.counts = count_by_metric
        self.read = self.concurrent = self.max_concurrent = self.calls = 0
        self.oldest = datetime.now(UTC) - timedelta(minutes=50)
        self.unavailable = False

    async def pass_on(self, rpc: Any, request: Any) -> bytes:
        assert rpc is READ_SAMPLES
        return to_json(await self.read_samples(request), by_alias=True)

    async def read_samples(self, request: SamplesRequest) -> RecordedSamples:
        self.calls += 1
        self.concurrent += 1
        self.max_concurrent = max(self.max_concurrent, self.concurrent)
        for _ in range(10):
            await asyncio.sleep(0)
        self.concurrent -= 1
        if self.unavailable:
            raise Unavailable("the metrics service is unavailable")
        first = int(request.cursor or 0)
        last = min(first + request.limit, self.counts[request.metric])
        self.read += last - first
        return RecordedSamples(
            model_id=request.model_id,
            metric=request.metric,
            unit=None,
            samples=[
                Sample(timestamp=self.oldest + timedelta(seconds=place / 10), value=place)
                for place in range(first, last)
            ],
            next=str(last) if last < self.counts[request.metric] else None,
        )

    def day(self) -> Monitoring:
        plot = {"title": "", "unit": None, "marks": [], "bucketSeconds": 300, "columns": {}}
        return Monitoring.model_construct(
            statistics={},
            plots={metric: dict(plot) for metric in self.counts},
            recommendations=[],
            findings=[],
        )


async def test_samples_of_an_hour_are_read_two_pages_at_once_up_to_a_limit() -> None:
    names = [f"metric_{place:02d}" for place in range(16)]
    metrics = Metrics(dict.fromkeys(names[:-1], 20000) | {names[-1]: 400})
    monitoring = metrics.day()
    await plots.refine(metrics, "m", monitoring)
    assert metrics.max_concurrent == 2
    assert metrics.read <= 60_000
    widths = [monitoring.plots[name]["bucketSeconds"] for name in names]
    assert widths == [300] * 15 + [None]
    assert monitoring.plots[names[-1]]["columns"]["mean"] == list(range(400))


async def test_an_hour_of_one_metric_is_read_over_several_pages() -> None:
    metrics = Metrics({"latency": 26_000})
    monitoring = metrics.day()
    await plots.refine(metrics, "m", monitoring)
    assert metrics.calls == 3
    assert monitoring.plots["latency"]["bucketSeconds"] == 15


async def test_the_first_unavailable_answer_ends_the_reading_of_all_metrics() -> None:
    metrics = Metrics(dict.fromkeys([f"metric_{place:02d}" for place in range(16)], 10))
    metrics.unavailable = True
    monitoring = metrics.day()
    await plots.refine(metrics, "m", monitoring)
    # The next two may have begun before they are canceled.
    assert metrics.calls <= 4
    assert monitoring == metrics.day()


async def test_samples_are_parsed_and_bucketed_outside_the_event_loop(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    metrics = Metrics({"latency": 2_000})
    threads = set()

    def noting(function: Any) -> Any:
        def noted(*arguments: Any, **named: Any) -> Any:
            threads.add(threading.current_thread())
            return function(*arguments, **named)

        return noted

    monkeypatch.setattr(plots, "orjson", SimpleNamespace(loads=noting(plots.orjson.loads)))
    monkeypatch.setattr(plots, "groupby", noting(itertools.groupby))
    monitoring = metrics.day()
    await plots.refine(metrics, "m", monitoring)
    assert monitoring.plots["latency"]["bucketSeconds"] == 1
    assert threads
    assert threading.current_thread() not in threads
