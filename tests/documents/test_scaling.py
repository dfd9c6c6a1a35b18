"""Figures of docs/scaling.md, computed again from the measured ones."""

import json
import re

import pytest

from documents.tables import ROOT, rows, sections

PAGE = ROOT / "docs" / "scaling.md"
SECTIONS = sections(PAGE)
MODELS = (100, 10_000, 1_000_000)
# What an active model does, as the page defines it.
RECORD_S, METRICS, MONITOR_S, DAY_S, MONTH_H = 15, 5, 300, 86_400, 730
RUN_MIN, WATCHED, KEPT_DAYS = 3, 0.1, 400
BYTES, COMPRESSED_BYTES, VOLUME_BYTES = 100, 27, 16e12
CORES_OF_A_MEASUREMENT, CORES_OF_A_PRIMARY = 2, 32
SPARE = 1.4  # autoscalers aim at a load of 70 %
USD_CORE, USD_GB = 25, 0.10
UNITS = {"MiB": 2**20, "GiB": 2**30, "GB": 1e9, "TB": 1e12}
# Figures are stated with two digits or three, and small ones with one.
TOLERANCE = 0.05


def result(file: str, name: str) -> float:
    results = json.loads((ROOT / "benchmarks" / "results" / f"{file}.json").read_text())
    return next(float(f["value"]) for f in results["figures"] if f["name"] == name)


RECORDS_PER_S = result("monitoring", "v1, one at a time, 64 clients")
SAMPLES_PER_S = result("monitoring", "v2, batches of 1000, 8 clients")
MONITOR_MS = result("monitoring", "/monitor of 30 days, 10 million samples, median")
SOCKET_KIB = result("realtime", "memory of a connection")


def cores_for_records(models: float) -> float:
    return models / RECORD_S / RECORDS_PER_S * CORES_OF_A_MEASUREMENT


def cores_for_answers(models: float) -> float:
    return models / MONITOR_S * MONITOR_MS / 1000


def disk(models: float, sample_bytes: int) -> float:
    return models * METRICS / RECORD_S * DAY_S * KEPT_DAYS * sample_bytes


# The first words of each row of "Load and capacity", and the figure for a number of models.
NEEDS = {
    "records a second": lambda models: models / RECORD_S,
    "samples a second": lambda models: models * METRICS / RECORD_S,
    "answers of `/monitor` a second": lambda models: models / MONITOR_S,
    "sockets": lambda models: models * WATCHED,
    "updates to sockets a second": lambda models: models * WATCHED / RECORD_S,
    "modules a second": lambda models: models / DAY_S,
    "benchmarks an hour": lambda models: models / MONTH_H,
    "**cores** for records, one at a time": cores_for_records,
    "**cores** for `/monitor`": cores_for_answers,
    "**memory** for sockets": lambda models: models * WATCHED * SOCKET_KIB * 1024,
    "**GPUs** at work": lambda models: models / MONTH_H * RUN_MIN / 60,
    "**disk** for 400 days": lambda models: disk(models, BYTES),
    "the same, compressed by TimescaleDB": lambda models: disk(models, COMPRESSED_BYTES),
}


def number(text: str) -> float:
    value, _, unit = text.strip().partition(" ")
    return float(value.replace(",", "")) * UNITS.get(unit, 1)


def rounded(figure: float, text: str) -> object:
    """Allow for the digits that the page leaves out."""
    digits = text.split(" ", maxsplit=1)[0].partition(".")[2]
    unit = UNITS.get(text.strip().partition(" ")[2], 1)
    return pytest.approx(figure, rel=TOLERANCE, abs=0.5 * unit / 10 ** len(digits))


@pytest.mark.parametrize("need", NEEDS)
def test_what_a_number_of_models_needs_follows_from_the_measured_figures(need: str) -> None:
    [cells] = [row[1:4] for row in rows(SECTIONS["Load and capacity"]) if row[0] == need]
    for models, cell in zip(MODELS, cells, strict=True):
        assert number(cell) == rounded(NEEDS[need](models), cell), models


def test_the_monthly_cost_follows_from_the_cores_and_disks() -> None:
    cost = {row[0]: row[1:4] for row in rows(SECTIONS["Cost a month"])}
    found = re.search(r"reserve ([\d.]+) cores", PAGE.read_text())
    assert found
    for place, models in enumerate(MODELS):
        cores = (cores_for_records(models) + cores_for_answers(models)) * SPARE + float(found[1])
        expected = {
            "cores": cores * USD_CORE,
            "disk, PostgreSQL": disk(models, BYTES) / 1e9 * USD_GB,
            "disk, TimescaleDB": disk(models, COMPRESSED_BYTES) / 1e9 * USD_GB,
        }
        for name, figure in expected.items():
            assert number(cost[name][place]) == rounded(figure, cost[name][place]), (name, models)


def test_the_first_walls_stand_where_the_measured_figures_put_them() -> None:
    text = " ".join(PAGE.read_text().split())
    per_model = METRICS / RECORD_S
    walls = {
        r"Disk, at ([\d,]+) models": VOLUME_BYTES / disk(1, BYTES),
        r"or of ([\d,]+) with TimescaleDB": VOLUME_BYTES / disk(1, COMPRESSED_BYTES),
        r"Answers, at ([\d,]+) models": CORES_OF_A_PRIMARY / cores_for_answers(1),
        r"answer ([\d,]+) `/monitor` a second": CORES_OF_A_PRIMARY / MONITOR_MS * 1000,
        r"One database, at ([\d,]+) models": SAMPLES_PER_S / per_model,
    }
    for pattern, figure in walls.items():
        found = re.search(pattern, text)
        assert found, pattern
        assert number(found[1]) == pytest.approx(figure, rel=TOLERANCE), pattern
    found = re.search(r"([\d.]+) for a million models if sent in batches", text)
    assert found
    expected = 1_000_000 * per_model / SAMPLES_PER_S * CORES_OF_A_MEASUREMENT
    assert number(found[1]) == rounded(expected, found[1])


def test_the_policies_are_compared_as_the_simulation_did() -> None:
    policies = ("one pod for each job, as shipped", "started pods stay for 10 minutes")

    def simulated(runs: int, policy: str, what: str) -> float:
        return result("simulate", f"{runs} runs an hour, {policy}: {what}")

    shipped, kept = policies
    half, most, cost = "half wait less than", "95 % wait less than", "cost"
    always = "one worker always on"
    # "a run that needs a new machine waits about five minutes for it"
    assert simulated(2, shipped, half) == pytest.approx(5, rel=0.1)
    for runs in (10, 30):
        # "half of the runs then start at once, for about 15 % more money"
        assert simulated(runs, kept, half) < 0.1
        more = simulated(runs, kept, cost) / simulated(runs, shipped, cost) - 1
        assert more == pytest.approx(0.15, abs=0.05)
        # "One worker that is always on costs less ... from ten runs an hour on"
        assert simulated(runs, always, cost) < simulated(runs, shipped, cost)
    # "At thirty an hour, 95 % of the runs wait less than one minute instead of five"
    assert simulated(30, kept, most) < 1
    assert simulated(30, shipped, most) == pytest.approx(5, rel=0.1)
    # "and twice as much at two"
    ratio = simulated(2, always, cost) / simulated(2, shipped, cost)
    assert ratio == pytest.approx(2, rel=0.1)
