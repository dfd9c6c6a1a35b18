from datetime import UTC, datetime, timedelta
from typing import Any

import altair as alt
import numpy as np
import plotly.graph_objects
import pytest

from common.contracts.recording import MetricName
from common.contracts.timestamps import to_us
from metrics.plots import MAX_POINTS, draw
from metrics.window import HOUR, MAX_EXACT, History, bucket, spans

METRIC: MetricName = "latency"
HOUR_US = 3_600_000_000
MARCH_US = to_us(datetime(2026, 3, 1, tzinfo=UTC))
NOTHING = (np.empty(0, np.int64), np.empty(0, np.int64))


def history(count: int, days: float = 30, *, few: bool = True) -> History:
    random = np.random.default_rng(count)
    at = np.sort(MARCH_US + random.integers(0, int(days * 86400e6), count))
    value = random.lognormal(3, 1, count)
    samples = (at, value) if few else (None, None)
    return History(bucket(spans(at, value), HOUR), *NOTHING, *samples)


HISTORIES = [history(1), history(60), history(MAX_EXACT), history(50_000, few=False),
             history(200_000, 365, few=False)]  # fmt: skip


@pytest.mark.parametrize("drawn", HISTORIES)
def test_a_plotly_figure_is_accepted_by_plotly(drawn: History) -> None:
    figure = plotly.graph_objects.Figure(draw(METRIC, drawn, "plotly"))  # validates each property
    assert figure.layout.yaxis.title.text == "Latency (ms)"
    assert figure.layout.title.text == "Latency"


@pytest.mark.parametrize("drawn", HISTORIES)
def test_a_vega_lite_specification_conforms_to_its_schema(drawn: History) -> None:
    specification = draw(METRIC, drawn, "vega-lite")
    alt.Chart.from_dict(specification, validate=True)
    assert (
        specification["$schema"].rpartition("/")[2].split(".")[0]
        == (alt.SCHEMA_URL.rpartition("/")[2].split(".")[0])
    )


@pytest.mark.parametrize("drawn", HISTORIES)
def test_the_three_formats_show_the_same_samples(drawn: History) -> None:
    series, plotly_figure, vega = (
        draw(METRIC, drawn, style) for style in ("series", "plotly", "vega-lite")
    )
    columns = series["columns"]
    traces = {trace["name"]: trace for trace in plotly_figure["data"]}
    mean = traces.get("mean") or traces["Latency"]
    assert mean["x"] == columns["time"] == [row["time"] for row in vega["data"]["values"]]
    assert mean["y"] == columns["mean"] == [row["mean"] for row in vega["data"]["values"]]
    assert columns["minimum"] == [row["minimum"] for row in vega["data"]["values"]]
    if "minimum" in traces:
        assert traces["minimum"]["y"] == columns["minimum"]
        assert traces["maximum"]["y"] == columns["maximum"]
    points = {name: series[name] for name in ("pointsIn", "pointsOut")}
    assert points == plotly_figure["layout"]["meta"] == vega["usermeta"]


@pytest.mark.parametrize("drawn", HISTORIES)
def test_down_sampling_preserves_extremes_and_is_reported(drawn: History) -> None:
    series = draw(METRIC, drawn, "series")
    columns = series["columns"]
    assert series["pointsIn"] == drawn.count
    assert series["pointsOut"] == len(columns["time"]) <= min(MAX_POINTS, drawn.count)
    assert min(columns["minimum"]) == drawn.hours["minimum"].min()
    assert max(columns["maximum"]) == drawn.hours["maximum"].max()
    if drawn.count <= MAX_POINTS:
        assert series["bucketSeconds"] is None
        assert drawn.value is not None
        assert columns["mean"] == drawn.value.tolist()
    else:
        figure: Any = draw(METRIC, drawn, "plotly")
        assert "mean of each" in figure["layout"]["title"]["subtitle"]["text"]
        first, second = (datetime.fromisoformat(time) for time in columns["time"][:2])
        assert (second - first) % timedelta(seconds=series["bucketSeconds"]) == timedelta()


def test_the_axis_of_a_single_sample_shows_its_time() -> None:
    figure, vega = (draw(METRIC, history(1), style) for style in ("plotly", "vega-lite"))
    first, last = (datetime.fromisoformat(time) for time in figure["layout"]["xaxis"]["range"])
    assert last - first == timedelta(minutes=1)
    assert first < datetime.fromisoformat(figure["data"][0]["x"][0]) < last
    scale = vega["layer"][0]["encoding"]["x"]["scale"]
    assert scale["domain"] == figure["layout"]["xaxis"]["range"]
    assert "range" not in draw(METRIC, history(60), "plotly")["layout"]["xaxis"]


def test_a_metric_without_samples_has_no_plot() -> None:
    assert draw(METRIC, history(0), "plotly") == {}


@pytest.mark.parametrize(
    ("hours", "label"), [(7 * 24, "'%-d %b'"), (2, "'%H:%M'"), (60 * 24, "%-d %b")]
)
def test_the_time_axis_of_vega_lite_has_dates_in_its_labels(hours: int, label: str) -> None:
    at = np.arange(hours, dtype=np.int64) * HOUR_US + MARCH_US
    value = np.linspace(1, 2, hours)
    drawn = History(bucket(spans(at, value), HOUR), *NOTHING, at, value)
    axis = draw(METRIC, drawn, "vega-lite")["layer"][-1]["encoding"]["x"]["axis"]
    assert label in str(axis)


@pytest.mark.parametrize(("days", "step"), [(12, 1), (29, 2), (59, 4)])
def test_no_date_is_labelled_twice_on_the_time_axis_of_vega_lite(days: int, step: int) -> None:
    """Ticks every half a day would repeat the date."""
    drawn = history(50_000, days, few=False)
    axis = draw(METRIC, drawn, "vega-lite")["layer"][-1]["encoding"]["x"]["axis"]
    assert axis["tickCount"] == {"interval": "day", "step": step}


def test_a_cost_is_drawn_per_million_and_its_columns_are_in_dollars() -> None:
    at = np.arange(3, dtype=np.int64) * HOUR_US + MARCH_US
    value = np.array([2e-8, 3e-8, 4e-8])
    drawn = History(bucket(spans(at, value), HOUR), *NOTHING, at, value)
    figure, vega, series = (
        draw("cost_per_inference", drawn, style) for style in ("plotly", "vega-lite", "series")
    )
    assert figure["data"][-1]["y"] == pytest.approx([0.02, 0.03, 0.04])
    assert [row["mean"] for row in vega["data"]["values"]] == figure["data"][-1]["y"]
    assert figure["layout"]["yaxis"]["title"]["text"] == "Cost per inference (USD per million)"
    assert (series["columns"]["mean"], series["unit"]) == (value.tolist(), "USD")
