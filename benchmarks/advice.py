"""Advice about series of known truth: false, missing and wrong statements.

`EACH=1000` takes the whole table, some ten minutes; less is a sample of it. Two libraries get
the first `EACH_PEERS` series of each kind.
"""

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from benchmarks import advice_chart, advice_score, advice_series
from benchmarks.advice_score import Score, Statement, share
from benchmarks.advice_series import CHANGES, CURVES, KINDS, Series
from benchmarks.report import Report, figure
from metrics import shape
from metrics.shape.cells import divide
from metrics.window import HOUR, MAX_EXACT, History, bucket, spans

# A seed on which the model was not tuned.
SEED = 20_261_129
# The chart in the documentation is not replaced by one of fewer series of each kind.
CHARTED = 45
HERE = Path(__file__).parent
PEERS = {"ruptures": "ruptures", "adtk": "ADTK"}


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
            statements = say(series, history)
            times[series.days].append((time.process_time() - start) * 1e3)
            advice_score.judge(series, statements, score)
        if kind in CHANGES:
            report.add(figure(f"{kind}: found, with its times", share(score.found, each), "%",
                              at_least=95))  # fmt: skip
            report.add(figure(f"{kind}: reported as another kind", share(score.mistaken, each),
                              "%", at_most=5))  # fmt: skip
            report.add(figure(f"{kind}: a false statement besides", share(score.more, each), "%"))
        elif kind in CURVES:
            report.add(figure(f"{kind}: false statements", share(score.false, each), "%",
                              at_most=5))  # fmt: skip
            report.add(figure(f"{kind}: its movement told", share(score.found, each), "%"))
        else:
            report.add(figure(f"{kind}: false statements", share(score.false, each), "%",
                              at_most=2))  # fmt: skip
    for days, ms in times.items():
        if ms:  # the first few series are all of the shortest window
            report.add(figure(f"{days} days of a metric", statistics.median(ms), "ms of CPU"))
    each_peers = int(os.environ.get("EACH_PEERS", str(CHARTED)))
    compare(report, min(each, each_peers))
    if min(each, each_peers) >= CHARTED:
        advice_chart.draw(report)
    return report


def compare(report: Report, each: int) -> None:
    """Score this project and two libraries on the same series against the truth."""
    series = list(advice_series.numbered(SEED, each))
    histories = [as_history(one) for one in series]
    statements = {"this project": [say(*both) for both in zip(series, histories, strict=True)]}
    cells = [divide(history.hours) for history in histories]
    with tempfile.TemporaryDirectory() as folder:
        columns = {f"at{n}": one.at for n, one in enumerate(cells)}
        columns |= {f"value{n}": one.mean for n, one in enumerate(cells)}
        columns |= {f"width{n}": np.array(one.width) for n, one in enumerate(cells)}
        np.savez(Path(folder) / "series.npz", **columns)
        try:
            python = _peer_python()
            for peer, name in PEERS.items():
                command = [str(python), str(HERE / "advice_peer.py"), peer, folder]
                answer = subprocess.run(command, check=True, capture_output=True, text=True)
                rows = json.loads(answer.stdout)
                statements[name] = [[Statement(*row) for row in of_series] for of_series in rows]
        except (subprocess.CalledProcessError, OSError) as error:
            report.notes.append(f"the libraries were not measured: {error}")
            return
    for kind in KINDS:
        if kind in CURVES:
            continue  # the libraries tell steps only
        for name, by_series in statements.items():
            score = Score()
            for one, given, cell in zip(series, by_series, cells, strict=True):
                if one.kind == kind:
                    # The libraries see cells only, so an edge in the right cell is right.
                    width = cell.width if name in PEERS.values() else 0
                    advice_score.judge(one, given, score, cell=width)
            found = kind in CHANGES
            value = share(score.found if found else score.false, each)
            outcome = "found" if found else "false statements"
            report.add(figure(f"{kind}, {each} series: {outcome} by {name}", value, "%"))
            if found:
                wrong = share(score.mistaken, each)
                report.add(
                    figure(f"{kind}, {each} series: reported as another kind by {name}", wrong, "%")
                )
    report.notes.append(
        "The libraries get the same hourly cells and may be off by a cell more; ruptures has the"
        " penalty that is best over all kinds. Neither finds slopes."
    )


def _peer_python() -> Path:
    """Return the interpreter of the libraries' environment; create it the first time."""
    python = HERE.parent / ".venv-bench" / "advice" / "bin" / "python"
    if not python.exists():
        subprocess.run([sys.executable, "-m", "venv", str(python.parents[1])], check=True)
        install = ["-m", "pip", "install", "-q", "-r", str(HERE / "advice_peers.txt")]
        subprocess.run([str(python), *install], check=True)
    return python


def say(series: Series, history: History) -> list[Statement]:
    described = shape.describe(history)
    if described.events:
        shape.sharpen(described, series.at, series.value)
    return [Statement(event.kind, event.begin, event.end, event.rise) for event in described.events]


def as_history(series: Series) -> History:
    """Convert a series to the service's input: hours, or samples if there are few."""
    nothing = np.empty(0, np.int64)
    few = len(series.at) <= MAX_EXACT
    kept = (series.at, series.value) if few else (None, None)
    return History(bucket(spans(series.at, series.value), HOUR), nothing, nothing, *kept)
