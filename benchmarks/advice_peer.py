"""The statements of two libraries about labelled series: ruptures and ADTK.

    python advice_peer.py ruptures|adtk FOLDER    reads series.npz, prints a JSON list of statements

Runs in the peers' environment, so nothing of the project is imported here. Both get the
same cells of hours as the project's own model, and each is used as its documentation does.
"""

import itertools
import json
import sys
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

HOUR = 3_600_000_000
DAY = 24 * HOUR
# Penalty of a change, in log(n) variances of the noise: of 4, 16, 64, 128 and 256 the one with
# which ruptures does best over all kinds.
PENALTY = 64.0
# ADTK: the interquartile ranges beyond which a value is an anomaly, and a change a level shift.
FAR, SHIFTED = 3.0, 6.0
MIN_CELLS = 3
# Share of an incident's size within which the level is back, as in the project's model.
BACK = 0.3
# A change that has lasted for less is an incident.
MIN_STEP = 12 * HOUR

Statement = tuple[str, int, int | None]


def ruptures(at: Any, value: Any, width: int) -> list[Statement]:
    """Subtract the seasons with statsmodels, find changes with ruptures, and pair them."""
    import ruptures as rpt  # noqa: PLC0415

    at, value = regular(at, value, width)
    rest = value - seasons(value, DAY // width)
    noise = np.median(np.abs(np.diff(rest))) / 0.6745 / np.sqrt(2)
    if noise == 0:
        return []
    signal = (rest - np.median(rest)) / noise
    search = rpt.KernelCPD(kernel="linear", min_size=MIN_CELLS).fit(signal)
    places = search.predict(pen=PENALTY * np.log(len(signal)))[:-1]
    return paired(at, signal, [0, *places, len(signal)], width)


def paired(at: Any, signal: Any, edges: list[int], width: int) -> list[Statement]:
    """Classify level changes that revert as incidents, and the others as steps."""
    levels = [float(signal[a:b].mean()) for a, b in itertools.pairwise(edges)]
    statements: list[Statement] = []
    n = 1
    while n < len(levels):
        size = abs(levels[n] - levels[n - 1])
        if n + 1 < len(levels) and abs(levels[n + 1] - levels[n - 1]) <= BACK * size:
            statements.append(("incident", int(at[edges[n]]), int(at[edges[n + 1]])))
            n += 2
        else:
            lasts = n == len(levels) - 1 and int(at[-1]) + width - int(at[edges[n]]) < MIN_STEP
            statements.append(("incident" if lasts else "step", int(at[edges[n]]), None))
            n += 1
    return statements


def seasons(value: Any, day: int) -> Any:
    """Return the seasonal part, daily and weekly where there are two periods of each."""
    from statsmodels.tsa.seasonal import MSTL  # noqa: PLC0415

    periods = [p for p in (day, 7 * day) if p > 1 and len(value) >= 2 * p]
    if not periods:
        return np.zeros(len(value))
    parts = MSTL(value, periods=periods).fit().seasonal
    return np.asarray(parts).reshape(len(value), -1).sum(axis=1)


def adtk(at: Any, value: Any, width: int) -> list[Statement]:
    """Decompose with ADTK where it finds a season, then detect shifts and anomalies."""
    from adtk.data import to_events  # noqa: PLC0415
    from adtk.detector import InterQuartileRangeAD, LevelShiftAD  # noqa: PLC0415
    from adtk.transformer import ClassicSeasonalDecomposition  # noqa: PLC0415

    at, value = regular(at, value, width)
    index = pd.DatetimeIndex(at * 1000)  # from 1970 on: only distances matter
    index.freq = pd.tseries.frequencies.to_offset(f"{width // HOUR}h")
    series = pd.Series(value, index)
    try:
        series = ClassicSeasonalDecomposition().fit_transform(series)
    except Exception as error:
        if "seasonality" not in str(error):
            raise

    statements: list[Statement] = []
    half_a_day = max(MIN_STEP // width, MIN_CELLS)
    for event in to_events(LevelShiftAD(half_a_day, c=SHIFTED).fit_detect(series)):
        first, last = bounds(event)
        statements.append(("step", (first + last) // 2, None))
    for event in to_events(InterQuartileRangeAD(FAR).fit_detect(series)):
        first, last = bounds(event)
        if last - first >= MIN_CELLS * width:
            statements.append(("incident", first, last if last <= int(at[-1]) else None))
    return statements


def bounds(event: Any) -> tuple[int, int]:
    """Return when an event of ADTK begins and ends; a single time is a point."""
    first, last = event if isinstance(event, tuple) else (event, event)
    return first.value // 1000, last.value // 1000 + 1


def regular(at: Any, value: Any, width: int) -> tuple[Any, Any]:
    """Fill gaps, which neither library accepts."""
    grid = np.arange(at[0], at[-1] + 1, width)
    return grid, np.interp(grid, at, value)


def main(library: str, folder: str) -> None:
    warnings.filterwarnings("ignore")
    find = {"ruptures": ruptures, "adtk": adtk}[library]
    with np.load(Path(folder) / "series.npz") as packed:
        count = len(packed.files) // 3
        statements = [
            find(packed[f"at{n}"], packed[f"value{n}"], int(packed[f"width{n}"]))
            for n in range(count)
        ]
    print(json.dumps(statements))


if __name__ == "__main__":
    main(*sys.argv[1:])
