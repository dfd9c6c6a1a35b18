from datetime import UTC, datetime, timedelta
from typing import Any

import altair as alt
import numpy as np
import plotly.graph_objects
import pytest

from common.contracts.monitoring import EPOCH, MICROSECOND, MetricName
from metrics.plots import MOST_POINTS, draw
from metrics.window import EXACT, HOUR, History, bucket, spans

METRIC: MetricName = "latency"


def history(count: int, days: float = 30, *, few: bool = True) -> History:
    random = np.random.default_rng(count)
    start = (datetime(2026, 3, 1, tzinfo=UTC) - EPOCH) // MICROSECOND
    at = np.sort(start + random.integers(0, int(days * 86400e6), count))
    value = random.lognormal(3, 1, count)
    kept = (at, value) if few else (None, None)
    nothing = np.empty(0, np.int64)
    return History(bucket(spans(at, value), HOUR), nothing, nothing, *kept)


HISTORIES = [history(1), history(60), history(EXACT), history(50_000, few=False),
             history(200_000, 365, few=False)]  # fmt: skip


@pytest.mark.parametrize("drawn", HISTORIES)
def test_plotly_accepts_the_figure(drawn: History) -> None:
    figure = plotly.graph_objects.Figure(draw(METRIC, drawn, "plotly"))  # validates each property
    assert figure.layout.yaxis.title.text == "Latency (ms)"
    assert figure.layout.title.text == "Latency"


@pytest.mark.parametrize("drawn", HISTORIES)
def test_vega_lites_own_schema_accepts_the_specification(drawn: History) -> None:
    specification = draw(METRIC, drawn, "vega-lite")
    alt.Chart.from_dict(specification, validate=True)
    assert (
        specification["$schema"].rpartition("/")[2].split(".")[0]
        == (alt.SCHEMA_URL.rpartition("/")[2].split(".")[0])
    )


@pytest.mark.parametrize("drawn", HISTORIES)
def test_the_three_formats_show_the_same(drawn: History) -> None:
    series, plotly_figure, vega = (
        draw(METRIC, drawn, style) for style in ("series", "plotly", "vega-lite")
    )
    columns = series["columns"]
    traces = {trace["name"]: trace for trace in plotly_figure["data"]}
    mean = traces.get("mean") or traces["Latency"]
    assert mean["x"] == columns["time"] == [row["time"] for row in vega["data"]["values"]]
    assert mean["y"] == columns["mean"] == [row["mean"] for row in vega["data"]["values"]]
    assert columns["minimum"] == [row["minimum"] for row in vega["data"]["values"]]
    if "least" in traces:
        assert traces["least"]["y"] == columns["minimum"]
        assert traces["greatest"]["y"] == columns["maximum"]
    points = {name: series[name] for name in ("pointsIn", "pointsOut")}
    assert points == plotly_figure["layout"]["meta"] == vega["usermeta"]


@pytest.mark.parametrize("drawn", HISTORIES)
def test_down_sampling_keeps_extremes_and_says_so(drawn: History) -> None:
    series = draw(METRIC, drawn, "series")
    columns = series["columns"]
    assert series["pointsIn"] == drawn.count
    assert series["pointsOut"] == len(columns["time"]) <= min(MOST_POINTS, drawn.count)
    assert min(columns["minimum"]) == drawn.hours["minimum"].min()
    assert max(columns["maximum"]) == drawn.hours["maximum"].max()
    if drawn.count <= MOST_POINTS:
        assert series["bucketSeconds"] is None
        assert drawn.value is not None
        assert columns["mean"] == drawn.value.tolist()
    else:
        figure: Any = draw(METRIC, drawn, "plotly")
        assert "mean of each" in figure["layout"]["title"]["subtitle"]["text"]
        first, second = (datetime.fromisoformat(time) for time in columns["time"][:2])
        assert (second - first) % timedelta(seconds=series["bucketSeconds"]) == timedelta()


def test_the_axis_of_a_single_sample_tells_when_it_was() -> None:
    figure, vega = (draw(METRIC, history(1), style) for style in ("plotly", "vega-lite"))
    first, last = (datetime.fromisoformat(time) for time in figure["layout"]["xaxis"]["range"])
    assert last - first == timedelta(minutes=1)
    assert first < datetime.fromisoformat(figure["data"][0]["x"][0]) < last
    scale = vega["layer"][0]["encoding"]["x"]["scale"]
    assert scale["domain"] == figure["layout"]["xaxis"]["range"]
    assert "range" not in draw(METRIC, history(60), "plotly")["layout"]["xaxis"]


def test_nothing_is_drawn_of_nothing() -> None:
    assert draw(METRIC, history(0), "plotly") == {}
