"""Recommendations: sentences of advice with their figures."""

import math
import re
from collections.abc import Iterator, Mapping
from datetime import datetime

from common.contracts.recording import USUAL_METRICS
from common.contracts.timestamps import DAY_US, HOUR_US, from_us, to_us
from common.quantities import counted, percent
from metrics.findings import Changes
from metrics.shape import Event
from metrics.units import lower_is_better, title, unit
from metrics.window import History

# Min saving for which another batch size is recommended.
MIN_SAVING = 0.10
# The share of its limit from which memory is worth a warning.
MIN_MEMORY_SHARE = 0.9
LIMITS = {"memory_usage": "memory_limit", "gpu_memory_usage": "gpu_memory_limit"}
BATCH_COST = re.compile(r"cost_per_inference_batch_([1-9][0-9]{0,5})")
# A limit that is reached later than this is not worth acting on today.
MAX_AHEAD_DAYS = 90
# Below this share of the level, its unit reads better than a percentage.
MIN_SHARE = 0.01
# From this factor on, a factor reads better than a percentage.
MIN_FACTOR = 3.0

MACHINE = "Look at what was deployed then, and at what else runs on the machine."
MEMORY = "Look for longer inputs, a larger batch, or a leak."
ADVICE = {
    "throughput": MACHINE,
    "latency": MACHINE,
    "memory_usage": MEMORY,
    "gpu_memory_usage": MEMORY,
    "cost_per_inference": "Compare the price of the machine and the batch size with before.",
}


def recommend(
    changes: Mapping[str, Changes],
    histories: Mapping[str, History],
    latest: Mapping[str, float],
    now: datetime,
) -> list[str]:
    """Return the recommendations about a model.

    Args:
        changes: by metric, the changes that matter.
        histories: by metric, the window.
        latest: by metric, the newest value ever, of limits, of the batch size
            in use and of the costs that were measured at each batch size.
        now: when the window ends.
    """
    order = [*USUAL_METRICS, *(metric for metric in changes if metric not in USUAL_METRICS)]
    sentences = [
        sentence
        for metric in order
        if metric in changes
        for sentence in _changes(changes[metric], latest.get(LIMITS.get(metric, ""), 0.0), now)
    ]
    return [*sentences, *_memory(histories, latest), *_batch_size(histories, latest)]


def _changes(changes: Changes, limit: float, now: datetime) -> Iterator[str]:
    ended = changes.ended(to_us(now))
    for event in changes.events:
        worse = (event.size > 0) == lower_is_better(changes.metric)
        if event.kind == "slope":
            steps = any(other.kind == "step" and _spans(event, other) for other in changes.events)
            yield _slope(changes, event, limit, worse=worse, steps=steps, ended=ended)
        elif event.kind == "step" and any(_spans(other, event) for other in changes.events):
            yield _interruption(changes.metric, event)
        elif event.end is None:
            yield _lasting(changes, event, now, worse=worse, ended=ended)
        else:
            normal = (
                not ended
                and not any(other.begin >= event.end for other in changes.events)
                and not any(other.kind == "slope" for other in changes.events)
            )
            yield _passed(changes.metric, event, normal=normal)


def _spans(slope: Event, other: Event) -> bool:
    """Return whether another event begins during a slope."""
    return slope.kind == "slope" and slope.begin <= other.begin < (slope.end or math.inf)


def _interruption(metric: str, event: Event) -> str:
    """Describe a step on a slope, such as a restart that interrupts a leak."""
    verb = "rose" if event.size > 0 else "fell"
    return (
        f"{title(metric)} {verb} by {_number(abs(event.size), metric)} on {_day(event.begin)} UTC,"
        f" from {_number(event.before, metric)} to {_number(event.level, metric)}."
    )


def _lasting(changes: Changes, event: Event, now: datetime, *, worse: bool, ended: bool) -> str:
    metric, since = changes.metric, _day(event.begin)
    if ended:
        when = f"had been {_change(event, metric)} since {since} UTC when its samples ended"
    elif event.kind == "incident":
        lasted = _duration(to_us(now) - event.begin)
        when = f"has been {_change(event, metric)} for {lasted}, since {since} UTC"
    else:
        when = f"has been {_change(event, metric)} since {since} UTC"
    sentence = (
        f"{title(metric)} {when}:"
        f" {_number(event.level, metric)} on average, {_number(event.before, metric)} before."
    )
    if ended:
        sentence += _silent(changes)
    if worse:
        return f"{sentence} {ADVICE.get(metric, MACHINE)}"
    return f"{sentence} Whatever changed then is worth keeping."


def _silent(changes: Changes) -> str:
    return f" There are none after {_day(changes.last)} UTC."


def _passed(metric: str, event: Event, *, normal: bool) -> str:
    end = event.end or 0
    since = " It has been normal since." if normal else ""
    return (
        f"{title(metric)} was {_change(event, metric)} for {_duration(end - event.begin)},"
        f" from {_day(event.begin)} to {_day(end)} UTC: {_number(event.level, metric)} on average,"
        f" usually {_number(event.before, metric)}.{since}"
    )


def _slope(
    changes: Changes, event: Event, limit: float, *, worse: bool, steps: bool, ended: bool
) -> str:
    metric, begin = changes.metric, _day(event.begin)
    verb = ("grows", "grew") if event.size > 0 else ("falls", "fell")
    rate = f"{_number(abs(event.size), metric)} a day"
    level = _number(event.level, metric)
    levels = f"from {_number(event.before, metric)} to {level}"
    if event.end is not None:
        moved = "" if steps else f", {levels},"
        if event.curved:
            rate += " on average"
        since = "." if ended else ", and has been level since."
        return (
            f"{title(metric)} {verb[1]} by {rate}{moved} from {begin}"
            f" to {_day(event.end)} UTC{since}"
        )
    if ended:
        # Of today, a rate of then says nothing.
        sentence = f"{title(metric)} {verb[1]} by {rate} from {begin} UTC until its samples ended"
        sentence += f" at {level}." if steps else f", {levels}."
        sentence += _silent(changes)
        return f"{sentence} {_slope_advice(metric)}".rstrip() if worse else sentence
    sentence = f"{title(metric)} {verb[0]} by {rate}: {levels} since {begin} UTC"
    if steps:  # which are a part of the difference between the two levels
        sentence = f"{title(metric)} {verb[0]} by {rate} since {begin} UTC, and is at {level} now"
    days = (limit - event.level) / event.size if limit > 0 else math.inf
    if 0 < days < MAX_AHEAD_DAYS:
        newest = changes.last - changes.width // 2  # the middle of the last cell
        reached = _day(newest + int(days * DAY_US), hour=False)
        sentence += f"; it reaches its limit of {_number(limit, metric)} on {reached}"
    if not worse:
        return f"{sentence}."
    if metric in LIMITS and 0 < days < MAX_AHEAD_DAYS:
        return f"{sentence}. Look for a leak, and restart it before then."
    return f"{sentence}. {_slope_advice(metric)}".rstrip()


def _slope_advice(metric: str) -> str:
    return "Look for a leak." if metric in LIMITS else ADVICE.get(metric, "")


def _change(event: Event, metric: str) -> str:
    """Describe the size of a change, mostly as a share of the level before."""
    way = "higher" if event.size > 0 else "lower"
    if event.before <= 0 or event.level < 0 or abs(event.size) < MIN_SHARE * event.before:
        return f"{_number(abs(event.size), metric)} {way}"
    times = event.level / event.before
    if times >= MIN_FACTOR:
        return (
            f"{times:.2g} times as high as before" if times < 100 else f"{times:.0f} times as high"
        )
    # A rise of 100.3 % is no truer than one of 100 %; a fall of 99.7 % is.
    share = f"{(times - 1) * 100:.0f} %" if event.size > 0 else percent(1 - times)
    return f"{share} {way}"


def _day(us: int, *, hour: bool = True) -> str:
    moment = from_us(us)
    day = f"{moment:%A} {moment.day} {moment:%B}"
    return f"{day}, {moment:%H:%M}" if hour else day


def _duration(us: int) -> str:
    if us >= 3 * DAY_US:
        return f"{us / DAY_US:.0f} days"
    if us >= 2 * HOUR_US:
        return f"{us / HOUR_US:.0f} hours"
    return counted(round(us / HOUR_US * 60), "minute")


def _memory(histories: Mapping[str, History], latest: Mapping[str, float]) -> Iterator[str]:
    for metric, limit_name in LIMITS.items():
        history, limit = histories.get(metric), latest.get(limit_name, 0.0)
        if history is None or not history.count or limit <= 0:
            continue
        peak = float(history.hours["maximum"].max())
        if peak >= MIN_MEMORY_SHARE * limit:
            yield (
                f"{title(metric)} has reached {peak:,.0f} of {limit:,.0f} MiB"
                f" ({percent(peak / limit)}): use a smaller batch, shorter inputs or half"
                " precision, or give it more, before a request fails for lack of it."
            )


def _batch_size(histories: Mapping[str, History], latest: Mapping[str, float]) -> Iterator[str]:
    curve = {
        int(match[1]): cost
        for metric, cost in latest.items()
        if (match := BATCH_COST.fullmatch(metric)) and cost > 0
    }
    if not curve:
        return
    best = min(curve, key=lambda size: (curve[size], size))
    used = latest.get("batch_size", 0)
    if used in curve:
        compared, cost = f"at {used:.0f}, which is in use", curve[int(used)]
    else:
        history = histories.get("cost_per_inference")
        if history is None or not history.count:
            return
        compared = "on average now"
        cost = math.fsum(history.hours["total"]) / history.count
    if best != used and curve[best] < (1 - MIN_SAVING) * cost:
        yield (
            f"Batch size {best} would be {percent(1 - curve[best] / cost)} cheaper: an inference"
            f" was measured at ${curve[best]:.3g} with it, against ${cost:.3g} {compared}."
        )


def _number(value: float, metric: str) -> str:
    if unit(metric) == "USD":
        return f"${value:.3g}"
    return f"{_digits(value)} {unit(metric) or ''}".rstrip()


def _digits(value: float) -> str:
    """Format with three significant digits, or from 100 on as an integer."""
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"
