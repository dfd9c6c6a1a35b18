"""Warnings in an answer about a model: missing figures, unknown metrics, a fast clock."""

from collections.abc import Iterable, Iterator, Mapping
from datetime import datetime, timedelta

from common.contracts.monitoring import MonitorRequest
from common.contracts.timestamps import MAX_CLOCK_SKEW
from common.quantities import counted
from metrics.window import Window


def warnings_of(
    request: MonitorRequest,
    numbers: Mapping[str, int],
    read: Iterable[str],
    window: Window,
    now: datetime,
    ahead: datetime | None,
) -> list[str]:
    """Return the warnings for an answer about a model.

    Args:
        request: the request.
        numbers: the model's series, by metric.
        read: the metrics that were read.
        window: their histories.
        now: the end of the window.
        ahead: the time of the newest sample, if it is ahead of now.
    """
    return [*_unknown(request, numbers), *_clock(now, ahead), *_left_out(read, numbers, window)]


def unexamined(metrics: Iterable[str]) -> Iterator[str]:
    """Warn of metrics that were not searched for changes for lack of time."""
    if names := ", ".join(metrics):
        yield (
            f"{names}: no time was left to look for changes, so `trend`, `findings` and"
            " `recommendations` lack them; ask again, or for fewer `metrics` or `days`"
        )


def _unknown(request: MonitorRequest, numbers: Mapping[str, int]) -> Iterator[str]:
    for metric in dict.fromkeys(request.metrics or ()):
        if metric not in numbers:
            yield f"{metric} was never recorded for this model; its figures are null"


def _clock(now: datetime, ahead: datetime | None) -> Iterator[str]:
    if ahead and ahead - now > MAX_CLOCK_SKEW:
        minutes = (ahead - now) / timedelta(minutes=1)
        yield (
            f"the newest sample is {counted(round(minutes), 'minute')} ahead of now and is counted;"
            " is the recorder's clock right?"
        )


def _left_out(read: Iterable[str], numbers: Mapping[str, int], window: Window) -> Iterator[str]:
    """Warn of the span in which a metric's samples are not rolled up yet."""
    for metric in read:
        if gap := window.left_out.get(numbers[metric]):
            first, last = (moment.strftime("%Y-%m-%dT%H:%MZ") for moment in gap)
            yield (
                f"{metric}: samples from {first} to {last} are still being summed up, and some"
                " are missing from its figures; ask again in a minute"
            )
