import contextlib
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.contracts.alerts import AlertEvent
from common.contracts.history import MAX_ARRIVAL
from common.contracts.timestamps import MAX_TIME_US, to_us
from realtime.cursor import MAX_PLACES, Cursor

PLACES = st.lists(st.tuples(st.integers(1, MAX_ARRIVAL), st.integers(0, MAX_TIME_US)))


@given(st.integers(0, MAX_ARRIVAL), st.integers(0, MAX_TIME_US), PLACES)
def test_a_cursor_equals_the_one_parsed_from_its_text(floor, alerted, places):
    cursor = Cursor(floor, alerted, [])
    for arrival, at in places:
        cursor.advance(arrival, at)
    again = Cursor.parse(cursor.text)
    assert (again.position, again.text) == (cursor.position, cursor.text)


@given(PLACES, st.integers(0, 10**6))
def test_a_cursor_reaches_back_at_most_a_minute_before_its_newest_sample(places, ago):
    """The age of the cursor does not matter."""
    cursor = Cursor(0, 0, [])
    now = to_us(datetime.now(UTC))
    for arrival, at in sorted(places):
        cursor.advance(arrival, at)
    newest = (now - ago) * 256 + 7
    cursor.advance(newest, 1)
    if cursor.places[7] == (newest, 1):  # otherwise a generated position is ahead of it
        position = cursor.position
        oldest = min([position.floor, *(arrival for arrival, _ in position.places)])
        assert oldest >= (now - ago - 61_000_000) * 256


def test_a_writer_with_a_fast_clock_hides_no_sample_of_other_writers():
    cursor = Cursor(0, 0, [])
    now = to_us(datetime.now(UTC))
    cursor.advance((now + 3_600_000_000) * 256 + 1, 1)
    assert cursor.floor < (now - 50_000_000) * 256


def test_a_cursor_covers_each_alert_of_the_last_minute_separately():
    start = datetime(2026, 1, 1, tzinfo=UTC)

    def news(number: int, seconds: float) -> AlertEvent:
        at = start + timedelta(seconds=seconds)
        return AlertEvent(
            id=f"a{number}", model_id="m", type="t", message="", severity="info", at=at
        )

    cursor = Cursor(0, to_us(start), [])
    cursor.add_alert(news(1, 20))
    cursor = Cursor.parse(cursor.text)
    assert cursor.covers(news(1, 20))
    assert not cursor.covers(news(2, 10)), "an earlier alert may come later"
    cursor.add_alert(news(3, 100))
    assert cursor.covers(news(2, 10)), "but not a minute later"
    for number in range(100):
        cursor.add_alert(news(number + 10, 101 + number / 100))
    assert len(cursor.alerts) <= 16
    assert all(cursor.covers(news(number + 10, 101 + number / 100)) for number in range(100))


@given(PLACES)
def test_a_cursor_covers_every_sample_of_any_number_of_writers(places):
    cursor = Cursor(0, 0, [])
    for arrival, at in sorted(places):
        cursor.advance(arrival, at)
    assert len(cursor.places) <= MAX_PLACES
    for arrival, at in places:
        assert (arrival, at) <= cursor.places.get(arrival & 255, (cursor.floor, MAX_TIME_US))


@given(st.text() | st.from_regex(r"c1(\.[0-9a-f]{0,17})*(-[0-9a-f]*)*", fullmatch=True))
def test_any_text_is_either_parsed_as_a_cursor_or_refused(text):
    with contextlib.suppress(ValueError):  # the service answers it with 1003
        assert Cursor.parse(text).position


def test_a_time_is_refused_as_a_cursor():
    with pytest.raises(ValueError, match="RFC 3339"):
        Cursor.parse("2026-01-31T12:00:00Z")
