import contextlib
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.contracts.monitoring import LAST_ARRIVAL, LAST_TIME, AlertNews
from realtime.cursor import MOST_PLACES, Cursor, microseconds

PLACES = st.lists(st.tuples(st.integers(1, LAST_ARRIVAL), st.integers(0, LAST_TIME)))


@given(st.integers(0, LAST_ARRIVAL), st.integers(0, LAST_TIME), PLACES)
def test_what_is_handed_back_is_what_was_given(floor, alerted, places):
    cursor = Cursor(floor, alerted, [])
    for arrival, at in places:
        cursor.hear(arrival, at)
    again = Cursor.parse(cursor.text)
    assert (again.heard, again.text) == (cursor.heard, cursor.text)


@given(PLACES, st.integers(0, 10**6))
def test_a_cursor_that_goes_on_asks_for_no_more_than_a_minute(places, ago):
    """However old it is: the newest place decides how far back is looked."""
    cursor = Cursor(0, 0, [])
    now = microseconds(datetime.now(UTC))
    for arrival, at in sorted(places):
        cursor.hear(arrival, at)
    newest = (now - ago) * 256 + 7
    cursor.hear(newest, 1)
    if cursor.places[7] == (newest, 1):  # else it was one that is ahead
        heard = cursor.heard
        oldest = min([heard.floor, *(arrival for arrival, _ in heard.places)])
        assert oldest >= (now - ago - 61_000_000) * 256


def test_a_clock_that_is_ahead_hides_nobody_elses_samples():
    cursor = Cursor(0, 0, [])
    now = microseconds(datetime.now(UTC))
    cursor.hear((now + 3_600_000_000) * 256 + 1, 1)
    assert cursor.floor < (now - 50_000_000) * 256


def test_alerts_are_heard_one_by_one_for_a_minute():
    start = datetime(2026, 1, 1, tzinfo=UTC)

    def news(number: int, seconds: float) -> AlertNews:
        at = start + timedelta(seconds=seconds)
        return AlertNews(
            id=f"a{number}", model_id="m", type="t", message="", severity="info", at=at
        )

    cursor = Cursor(0, microseconds(start), [])
    cursor.hear_alert(news(1, 20))
    cursor = Cursor.parse(cursor.text)
    assert cursor.has_heard(news(1, 20))
    assert not cursor.has_heard(news(2, 10)), "an earlier one may come later"
    cursor.hear_alert(news(3, 100))
    assert cursor.has_heard(news(2, 10)), "but not a minute later"
    for number in range(100):
        cursor.hear_alert(news(number + 10, 101 + number / 100))
    assert len(cursor.alerts) <= 16
    assert all(cursor.has_heard(news(number + 10, 101 + number / 100)) for number in range(100))


@given(PLACES)
def test_everything_that_was_heard_counts_as_heard_however_many_recorded_it(places):
    cursor = Cursor(0, 0, [])
    for arrival, at in sorted(places):
        cursor.hear(arrival, at)
    assert len(cursor.places) <= MOST_PLACES
    for arrival, at in places:
        assert (arrival, at) <= cursor.places.get(arrival & 255, (cursor.floor, LAST_TIME))


@given(st.text() | st.from_regex(r"c1(\.[0-9a-f]{0,17})*(-[0-9a-f]*)*", fullmatch=True))
def test_nothing_else_does_harm(text):
    with contextlib.suppress(ValueError):  # which is what makes an answer with 1003
        assert Cursor.parse(text).heard


def test_a_cursor_is_not_a_time():
    with pytest.raises(ValueError, match="RFC 3339"):
        Cursor.parse("2026-01-31T12:00:00Z")
