import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.contracts.monitoring import LAST_ARRIVAL, LAST_TIME
from realtime.cursor import MOST_PLACES, Cursor

PLACES = st.lists(st.tuples(st.integers(1, LAST_ARRIVAL), st.integers(0, LAST_TIME)))


@given(st.integers(0, LAST_ARRIVAL), st.integers(0, LAST_TIME), PLACES)
def test_what_is_handed_back_is_what_was_given(floor, alerted, places):
    cursor = Cursor(floor, alerted, [])
    for arrival, at in places:
        cursor.hear(arrival, at)
    again = Cursor.parse(cursor.text)
    assert (again.heard, again.text) == (cursor.heard, cursor.text)


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
