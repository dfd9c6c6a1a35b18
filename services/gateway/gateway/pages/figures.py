"""Numbers and times as people read them, for templates."""

import json
import math
import re
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import Any

from markupsafe import Markup, escape

from common.contracts.invisible import INVISIBLE, PROSE, SPACES, SPELLING_JOINER
from common.contracts.monitoring import Finding
from common.quantities import counted

ABSENT = "\N{EN DASH}"
CODE = re.compile(r"`([^`]+)`")
BINARY = ("MiB", "GiB", "TiB")
# The group is what is escaped. Two names must not look alike, so that one is chosen for the other:
# in a name, nothing invisible is left but joiners that are spelling. A sentence is only read, and
# would be spoilt by escapes in its emoji.
NAME = re.compile(f"{SPELLING_JOINER}|([{INVISIBLE}{SPACES}\t\n\r])")


def number(value: float | None, digits: int = 3) -> str:
    """Write three significant digits, without an exponent if that is short; a dash for None."""
    if value is None:
        return ABSENT
    if value == 0 or not math.isfinite(value):
        return f"{value:g}"
    if abs(value) >= 1e15 or abs(value) < 1e-6:
        mantissa, _, exponent = f"{value:.{digits}g}".partition("e")
        return f"{mantissa}e{int(exponent)}"
    places = max(0, digits - 1 - math.floor(math.log10(abs(value))))
    text = f"{value:,.{places}f}"
    return text.rstrip("0").rstrip(".") if "." in text else text


def memory(mib: float | None) -> str:
    """Write a size, given in MiB, in the unit that makes it shortest."""
    if mib is None:
        return ABSENT
    size, unit = float(mib), 0
    while size >= 1024 and unit < len(BINARY) - 1:
        size, unit = size / 1024, unit + 1
    return f"{number(size)} {BINARY[unit]}"


def visible(name: str) -> str:
    """Write the invisible characters of a name as escapes that JSON decodes."""
    return NAME.sub(_escape, name)


def prose(text: str) -> str:
    """Write a text's invisible characters as escapes, except where they are part of an emoji."""
    return PROSE.sub(_escape, text)


def finalize(value: Any) -> Any:
    """Escape a template's value as `prose` does, unless it is markup or a result of `visible`."""
    return prose(value) if type(value) is str else value


def raw(value: Any) -> Markup:
    """Escape markup, but show no character as its code: for form fields and scripts' attributes."""
    return escape(value)


def _escape(match: re.Match[str]) -> str:
    return json.dumps(match[0])[1:-1] if match[1] else match[0]


def sentence(text: str) -> str:
    return text[:1].upper() + text[1:]


def marked(text: str) -> Markup:
    """Show text in backticks as code."""
    return Markup(CODE.sub(r"<code>\1</code>", str(escape(prose(text)))))  # noqa: S704  (escaped)


def timed(text: str, findings: Sequence[Finding]) -> Markup:
    """Mark up the findings' times, which are UTC, in a sentence of advice.

    The sentence names minutes: of several times within a minute, the earliest is marked.
    """
    times = {time for found in findings for time in (found.begin, found.end) if time}
    if not times:
        return escape(text)
    elements: dict[str, str] = {}
    for time in sorted(times):
        words = f"{time:%A} {time.day} {time:%B}, {time:%H:%M}"
        title = f"{time:%Y-%m-%d %H:%M:%S} UTC"
        element = f'<time datetime="{time.isoformat()}" title="{title}">{words} UTC</time>'
        elements.setdefault(words, element)
    # A single pass: the text of an element is not marked again.
    marked = re.sub(
        f"({'|'.join(elements)})( UTC)?", lambda match: elements[match[1]], str(escape(prose(text)))
    )
    return Markup(marked)  # noqa: S704  (escaped)


def plain(value: float | None) -> str:
    """Write a number for a form field; "" for None."""
    return "" if value is None else f"{value:.15g}"


def usd(value: float | None) -> str:
    return ABSENT if value is None else f"${number(value)}"


def duration(seconds: float | None) -> str:
    """Write a duration, such as "850 ms", "12 s", "4 min" or "1 h 5 min"."""
    if seconds is None:
        return ABSENT
    if seconds < 1:
        return f"{seconds * 1000:.0f} ms"
    if seconds < 90:
        return f"{number(seconds)} s"
    minutes = round(seconds / 60)
    if minutes < 90:
        return f"{minutes} min"
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if minutes else f"{hours} h"


def between(begin: datetime | None, end: datetime | None) -> str:
    """Write the duration from one time to another, or until now."""
    if begin is None:
        return ABSENT
    return duration(max(0.0, ((end or datetime.now(UTC)) - begin).total_seconds()))


def pretty(value: Any) -> str:
    """Encode a JSON value over several lines."""
    return prose(json.dumps(value, indent=2, ensure_ascii=False))


def compact(value: Any) -> str:
    """Encode a JSON value on one line that a shell may quote with single quotes."""
    return visible(json.dumps(value, ensure_ascii=False)).replace("'", "\\u0027")


FILTERS: dict[str, Callable[..., Any]] = {
    "number": number,
    "memory": memory,
    "usd": usd,
    "duration": duration,
    "counted": counted,
    "between": between,
    "sentence": sentence,
    "visible": visible,
    "marked": marked,
    "raw": raw,
    "plain": plain,
    "timed": timed,
    "pretty": pretty,
    "json": compact,
}
