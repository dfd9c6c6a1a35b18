"""Figures of the dashboard's pages, as far as they can be tested without a browser."""

from datetime import UTC, datetime

from common.contracts.monitoring import Finding
from gateway.pages import figures


def incident(begin: datetime) -> Finding:
    return Finding(
        kind="incident", metric="latency", begin=begin, end=None, size=1, unit="ms", confidence=1
    )


def test_two_times_within_one_minute_are_marked_once_as_the_earlier() -> None:
    minute = datetime(2026, 11, 30, 7, 3, tzinfo=UTC)
    found = [incident(minute.replace(second=second)) for second in (34, 5, 59)]
    element = (
        '<time datetime="2026-11-30T07:03:05+00:00" title="2026-11-30 07:03:05 UTC">'
        "Monday 30 November, 07:03 UTC</time>"
    )
    text = "Since Monday 30 November, 07:03 UTC latency is higher."
    assert figures.timed(text, found) == f"Since {element} latency is higher."
    assert figures.timed(text, []) == text
