"""Times as the bus and PostgreSQL represent them: microseconds since 2000."""

import re
import time
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any

from pydantic import Field, PlainValidator

EPOCH = datetime(2000, 1, 1, tzinfo=UTC)
EPOCH_UNIX_US = int(EPOCH.timestamp()) * 1_000_000
MICROSECOND = timedelta(microseconds=1)
HOUR_US = 3_600_000_000
DAY_US = 24 * HOUR_US
WEEK_US = 7 * DAY_US
MAX_AHEAD = timedelta(days=1)
# Clocks that differ by less count as equal.
MAX_CLOCK_SKEW = timedelta(minutes=1)

MAX_TIME_US = (datetime.max.replace(tzinfo=UTC) - EPOCH) // MICROSECOND
Microseconds = Annotated[int, Field(ge=0, le=MAX_TIME_US)]

_RFC3339 = re.compile(r"\d{4}-\d\d-\d\d[Tt ]\d\d:\d\d:\d\d(\.\d+)?([Zz]|[+-]\d\d:\d\d)?", re.ASCII)


def now_us() -> int:
    """Return the current time in microseconds since 2000."""
    return time.time_ns() // 1000 - EPOCH_UNIX_US


def to_us(moment: datetime) -> int:
    """Convert a time to microseconds since 2000."""
    return (moment - EPOCH) // MICROSECOND


def from_us(us: int) -> datetime:
    """Convert microseconds since 2000 to a time in UTC."""
    return EPOCH + timedelta(microseconds=us)


def sql_us(moment: str) -> str:
    """Return the SQL that converts a `timestamptz` to microseconds since 2000."""
    return f"(extract(epoch from {moment} - '2000-01-01Z'::timestamptz) * 1e6)::bigint"


def to_text(us: int) -> str:
    """Convert microseconds since 2000 to RFC 3339."""
    return from_us(us).isoformat().replace("+00:00", "Z")


def parse_time(text: str) -> datetime:
    """Parse RFC 3339 into UTC, to the microsecond.

    Raises:
        ValueError: with a sentence for the caller.
    """
    match = _RFC3339.fullmatch(text)
    if not match:
        raise ValueError("write the time as RFC 3339: 2026-01-31T12:00:00Z")
    if match[2] is None:
        raise ValueError("the time has no zone: end it with Z for UTC, or an offset like +02:00")
    try:
        return datetime.fromisoformat(text.upper()).astimezone(UTC)
    except (ValueError, OverflowError):
        raise ValueError("no such date or time of day") from None


def _timestamp(value: Any) -> datetime:
    if isinstance(value, str) and len(value) <= 64:
        moment = parse_time(value)
    elif isinstance(value, datetime) and value.tzinfo:
        moment = value.astimezone(UTC)
    else:
        raise ValueError("write the time as an RFC 3339 string: 2026-01-31T12:00:00Z")
    if moment < EPOCH:
        raise ValueError("the time is before the year 2000; is the clock right?")
    if moment > datetime.now(UTC) + MAX_AHEAD:
        raise ValueError("the time is more than a day ahead; is the clock right?")
    return moment


Timestamp = Annotated[
    datetime,
    PlainValidator(_timestamp, json_schema_input_type=str),
    Field(json_schema_extra={"format": "date-time"}),
]


def _moment(value: Any) -> datetime:
    if isinstance(value, str) and len(value) <= 64:
        # An unescaped plus sign in a query is decoded as a space; undo that.
        return parse_time(re.sub(r" (?=\d\d:\d\d$)", "+", value))
    if isinstance(value, datetime) and value.tzinfo:
        return value.astimezone(UTC)
    raise ValueError("write the time as an RFC 3339 string: 2026-01-31T12:00:00Z")


# Any time, as the bound of a span, even if nothing can have been recorded then.
Moment = Annotated[
    datetime,
    PlainValidator(_moment, json_schema_input_type=str),
    Field(json_schema_extra={"format": "date-time"}),
]
