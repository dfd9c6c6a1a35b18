"""Advice about labelled series, scored against their truth."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from benchmarks.advice_series import CHANGES, MINUTE, Floats, Series

# Tolerance for an edge: a share of the event's length, or this many samples.
PART, SAMPLES = 0.05, 2
# Tolerances for a slope that is stated of a curve: of its rise, of its rate now, and of what
# remains level after it. A deviation of the noise more is allowed, as of a rise between samples.
RISE, RATE, LEVEL = 0.25, 0.5, 0.2
# The last part of a stretch shows the rate now.
NOW = 0.2


@dataclass(frozen=True)
class Statement:
    """A statement about a series; `end` is None while its event lasts."""

    kind: str
    begin: int
    end: int | None
    rise: float = 0.0  # of a slope


@dataclass
class Score:
    """The score of one kind of series."""

    series: int = 0
    false: int = 0  # any statement about a series without an event
    found: int = 0  # right kind, right place
    misplaced: int = 0  # right kind, wrong place
    mistaken: int = 0  # wrong kind
    more: int = 0  # a false statement in addition to a true one
    wrong: list[str] = field(default_factory=list)


def judge(series: Series, statements: Sequence[Statement], score: Score, *, cell: int = 0) -> None:
    """Score the statements about a series; their edges may also be off by `cell`."""
    score.series += 1
    if series.curve is not None:
        if not all(_true(series, series.curve, statement) for statement in statements):
            score.false += 1
            score.wrong.append(_describe(series, statements, "false"))
        elif statements:
            score.found += 1
        return
    if series.kind not in CHANGES:
        if statements:
            score.false += 1
            score.wrong.append(_describe(series, statements, "false"))
        return
    [truth] = series.truths
    same = [statement for statement in statements if statement.kind == truth.kind]
    if any(_near(series, statement, cell) for statement in same):
        score.found += 1
        if len(statements) > 1:
            score.more += 1
            score.wrong.append(_describe(series, statements, "more"))
    elif same:
        score.misplaced += 1
        score.wrong.append(_describe(series, statements, "misplaced"))
    elif statements:
        score.mistaken += 1
        score.wrong.append(_describe(series, statements, "mistaken"))
    else:
        score.wrong.append(_describe(series, statements, "missed"))


def _true(series: Series, curve: Floats, statement: Statement) -> bool:
    """Return whether a statement about a curve is true: a slope, where the curve moves so."""
    if statement.kind != "slope":
        return False
    last = int(series.at[-1])
    end = min(statement.end or last, last)

    def at(time: float) -> float:
        return float(np.interp(time, series.at, curve))

    moved = at(end) - at(statement.begin)
    if abs(statement.rise - moved) > RISE * abs(moved) + series.noise:
        return False
    if statement.end is None:
        now = (at(end) - at(end - NOW * (end - statement.begin))) / NOW
        return abs(statement.rise - now) <= RATE * abs(statement.rise) + series.noise
    later = curve[np.searchsorted(series.at, end) :]
    return float(np.ptp(later)) <= LEVEL * abs(moved) + series.noise


def _near(series: Series, statement: Statement, cell: int) -> bool:
    [truth] = series.truths
    last = int(series.at[-1])
    length = (last if truth.end is None else truth.end) - truth.begin
    allowed = max(PART * length, SAMPLES * series.interval * MINUTE) + cell
    if (statement.end is None) != (truth.end is None):
        return False
    if (
        truth.end is not None
        and statement.end is not None
        and abs(statement.end - truth.end) > allowed
    ):
        return False
    return abs(statement.begin - truth.begin) <= allowed


def _describe(series: Series, statements: Sequence[Statement], outcome: str) -> str:
    def hours(at: int | None) -> str:
        return "now" if at is None else f"{(at - series.at[0]) / 60 / MINUTE:.1f}"

    given = ", ".join(f"{one.kind} {hours(one.begin)}-{hours(one.end)} h" for one in statements)
    true = ", ".join(
        f"{one.kind} {hours(one.begin)}-{hours(one.end)} h of {one.size:.1f}"
        for one in series.truths
    )
    return f"{outcome}: {series.interval} min, {series.days} d, {series.detail}: {true} | {given}"


def share(part: int, total: int) -> float:
    return float(np.round(100 * part / total, 2)) if total else 0.0
