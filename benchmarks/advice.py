"""Advice about series of known truth: false, missing and mistaken statements.

`EACH=1000` takes the whole table, some ten minutes; less is a sample of it.
"""

import os
import statistics
import time

import numpy as np

from benchmarks import advice_score, advice_series
from benchmarks.advice_score import Said, Score, share
from benchmarks.advice_series import CHANGES, KINDS, Series
from benchmarks.report import Report, figure
from metrics import shape
from metrics.window import HOUR, MAX_EXACT, History, bucket, spans

# A seed on which the model was not tuned.
SEED = 20_261_129


def measure() -> Report:
    each = int(os.environ.get("EACH", "180"))
    report = Report(f"Advice held against {each} labelled series of each kind")
    times: dict[int, list[float]] = {days: [] for days in advice_series.WINDOWS}
    for kind in KINDS:
        score = Score()
        for number in range(each):
            series = advice_series.draw(kind, SEED, number)
            history = as_history(series)
            start = time.process_time()
            said = say(series, history)
            times[series.days].append((time.process_time() - start) * 1e3)
            advice_score.judge(series, said, score)
        if kind in CHANGES:
            report.add(figure(f"{kind}: found, and where", share(score.found, each), "%",
                              at_least=95))  # fmt: skip
            report.add(figure(f"{kind}: told as something else", share(score.mistaken, each), "%",
                              at_most=5))  # fmt: skip
            report.add(figure(f"{kind}: more told than is true", share(score.more, each), "%"))
        else:
            report.add(figure(f"{kind}: told falsely", share(score.false, each), "%", at_most=2))
    for days, taken in times.items():
        report.add(figure(f"{days} days of a metric", statistics.median(taken), "ms of CPU"))
    return report


def say(series: Series, history: History) -> list[Said]:
    found = shape.describe(history)
    if found.events:
        shape.sharpen(found, series.at, series.value)
    return [Said(event.kind, event.begin, event.end) for event in found.events]


def as_history(series: Series) -> History:
    """Convert a series to the service's input: hours, or samples if there are few."""
    nothing = np.empty(0, np.int64)
    few = len(series.at) <= MAX_EXACT
    kept = (series.at, series.value) if few else (None, None)
    return History(bucket(spans(series.at, series.value), HOUR), nothing, nothing, *kept)
