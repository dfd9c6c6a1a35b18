"""Analysis and advice from known figures."""

from datetime import UTC, date, datetime, timedelta

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from test_statistics import autoregressive

from benchmarker import cost, plots
from benchmarker.analysis import analyse
from benchmarker.outcome import assemble, conclude, describe_size
from common.contracts.benchmarking import BenchmarkRequest
from common.contracts.figures import Ceilings, Machine, MemoryUse, Results, Setup, Shortage
from common.contracts.measuring import Measurement, ModelAt, Samples, SizeFacts

CPU = Machine(device="cpu", name="some cpu", cores=2, threads=2, memory=16_000.0)
H200 = Machine(device="cuda", name="NVIDIA H200", cores=16, threads=8, memory=144_000.0)
PRICES = cost.read_prices()


def setup(machine: Machine = CPU, **fields) -> Setup:
    known = {
        "machine": machine,
        "task": "text-classification",
        "commit": "0" * 40,
        "dtype": "float32",
        "attention": "sdpa",
        "compiled": False,
        "parameters": 1,
        "weights": 1.0,
        "base": 100.0,
        "available": 1000.0,
        "input": {},
        "tokens": 128,
        "operations": 1e6,
        "bytes_per_call": 1e6,
        "bytes_per_sample": 0.0,
        "ceilings": Ceilings(bandwidth=10.0, compute=10.0),
    }
    return Setup(**known | fields)


def results(latencies: dict[int, float], *, short=(), machine=CPU, noise=0.0, **fields) -> Results:
    """Return the results of a model with these ms per batch, and 100 MiB plus 10 per sample."""
    setup_of_run = setup(machine, **fields)
    request = BenchmarkRequest(model_id="a/b")
    price = PRICES.price(machine, request)
    points = {}
    for size, latency in latencies.items():
        wall = [round(latency * 1e6 * (1 + noise * (-1) ** n)) for n in range(64)]
        memory = 100.0 + 10 * size
        gpu = machine.device == "cuda"
        facts = SizeFacts(
            batch_size=size,
            memory=MemoryUse(reserved=memory) if gpu else MemoryUse(peak_rss=memory),
        )
        block = Samples(round=0, batch_size=size, wall=wall)
        points[size] = describe_size(size, [block], facts, setup_of_run, price)
    errors = [Shortage(batch_size=s, reason="out_of_memory", message="no") for s in short]
    return assemble([*latencies, *short], points, errors, setup_of_run, price)


def request(**fields) -> BenchmarkRequest:
    return BenchmarkRequest(model_id="a/b", **fields)


# Throughput: 100, 190, 320, 333, 250 samples/s.
LATENCIES = {1: 10.0, 2: 10.5, 4: 12.5, 8: 24.0, 16: 64.0}


def test_a_size_is_recommended_for_each_purpose_with_what_limits_throughput() -> None:
    analysis = analyse(results(LATENCIES), request())
    picks = analysis.picks
    sizes = (picks.latency, picks.balanced, picks.throughput, picks.cost)
    assert [pick.batch_size for pick in sizes] == [1, 4, 8, 8]
    assert picks.throughput.bound_by == "throughput falls at larger sizes"
    assert (analysis.optimal_batch_size, analysis.verified) == (4, True)
    assert "95 %" in analysis.constraint


@pytest.mark.parametrize(("budget", "size"), [(11.0, 2), (12.5, 4), (30.0, 8), (1000.0, 8)])
def test_the_highest_throughput_within_the_budget_is_optimal(budget, size) -> None:
    analysis = analyse(results(LATENCIES), request(latency_budget_ms=budget))
    assert analysis.optimal_batch_size == size
    assert f"{budget:g} ms" in analysis.constraint


def test_a_budget_that_no_size_meets_is_reported() -> None:
    analysis = analyse(results(LATENCIES), request(latency_budget_ms=9.0))
    assert analysis.optimal_batch_size is None
    assert "10 ms" in analysis.picks.latency.why
    assert analysis.resource_recommendations
    assert "10 ms" in analysis.would_change[0]


def test_the_memory_model_uses_all_measured_sizes_and_retained_memory() -> None:
    measured = results({1: 10.0, 4: 12.5})
    alone = analyse(measured, request()).memory
    assert (alone.base, alone.per_sample, alone.kept) == (100.0, 10.0, None)
    analysis = analyse(measured, request(), peaks={2: 115.0, 8: 190.0, 16: 300.0}, held=200.0)
    memory = analysis.memory
    assert (memory.base, memory.per_sample, memory.kept) == (80.0, 13.75, 60.0)
    assert memory.largest_batch == 66
    [advice] = [line for line in analysis.resource_recommendations if "MiB" in line]
    assert "240 MiB" in advice  # the peak of 140, the retained 60, and a fifth more
    assert analyse(measured, request(), held=90.0).memory.kept == 0.0
    assert analyse(results({1: 10.0}, machine=H200), request(), held=900.0).memory.kept is None


def test_memory_is_the_bound_if_the_next_size_ran_out_of_memory() -> None:
    analysis = analyse(results({1: 10.0, 2: 10.5, 4: 12.5}, short=[8]), request())
    assert analysis.picks.throughput.bound_by == "memory"
    assert analysis.verified
    memory = analysis.memory
    assert (memory.base, memory.per_sample) == (pytest.approx(100), pytest.approx(10))
    assert memory.largest_batch == 90


def test_failure_at_a_larger_size_is_named_as_the_bound_of_throughput() -> None:
    analysed = results({1: 10.0, 2: 10.5, 4: 12.5}, short=[8])
    errors = [error.model_copy(update={"reason": "not_measured"}) for error in analysed.errors]
    analysis = analyse(analysed.model_copy(update={"errors": errors}), request())
    assert analysis.picks.throughput.bound_by == "the model fails at larger sizes"
    assert analysis.verified


def test_an_optimum_at_the_largest_measured_size_is_not_verified() -> None:
    analysis = analyse(results({1: 10.0, 2: 10.5, 4: 12.5}), request())
    assert not analysis.verified
    assert any("larger" in line for line in analysis.would_change)


@pytest.mark.parametrize(
    ("latencies", "noise"),
    [
        ({1: 10.0, 8: 14.0, 64: 110.0}, 0.0),  # the sizes between 8 and its neighbours are unknown
        ({4: 12.5, 8: 24.0}, 0.0),  # smaller sizes are unknown
        (LATENCIES, 0.5),  # the figures are marked as doubtful
        ({1: 10.0, 2: 10.4, 4: 19.8, 8: 40.0}, 0.15),  # it is uncertain whether 2 is enough
    ],
)
def test_an_uncertain_optimum_is_not_reported_as_verified(latencies, noise) -> None:
    assert not analyse(results(latencies, noise=noise), request()).verified


@pytest.mark.parametrize(
    ("fields", "regime", "expected"),
    [
        ({}, "overhead", "torch.compile"),
        ({"bytes_per_call": 1e8}, "bandwidth", "quantised"),
        ({"operations": 2.5e7}, "compute", "Arithmetic"),
        ({"bytes_per_call": None, "missing": {"bytesPerCall": "experts"}}, "unknown", "experts"),
    ],
)
def test_recommendations_follow_from_the_bottleneck(fields, regime, expected) -> None:
    analysis = analyse(results(LATENCIES, **fields), request())
    assert analysis.regime == regime
    assert expected in analysis.resource_recommendations[0]
    assert "168 MiB" in analysis.resource_recommendations[1]  # a fifth above the 140 of size 4


def test_a_batchs_bandwidth_includes_keys_and_values() -> None:
    """Llama 3.1 8B on an H100, 256 sequences of about 500 tokens, 26 ms a token: 37 %."""
    h100 = H200.model_copy(update={"name": "NVIDIA H100 80GB HBM3"})
    facts = {
        "new_tokens": 2,
        "bytes_per_call": 15.0e9,
        "bytes_per_sample": 500 * 131_072.0,
        "operations": 2 * 8.03e9,
        "ceilings": Ceilings(bandwidth=3350.0, compute=989_000.0),
    }
    block = Samples(round=0, batch_size=256, wall=[26_000_000] * 64, steps=[[1, 2]] * 64)
    point = describe_size(256, [block], SizeFacts(batch_size=256), setup(h100, **facts), None)
    assert point.bandwidth_share == pytest.approx(0.37, abs=0.01)
    assert point.compute_share == pytest.approx(0.16, abs=0.01)
    unknown = setup(h100, **facts | {"bytes_per_sample": None})
    assert (
        describe_size(256, [block], SizeFacts(batch_size=256), unknown, None).bandwidth_share
        is None
    )


def test_a_gpu_is_priced_by_its_name_with_the_source_of_the_price() -> None:
    price = results(LATENCIES, machine=H200).price
    assert price.provider
    assert price.as_of
    assert price.source
    assert price.kind == "on_demand"
    assert "H200" in price.machine.upper()
    names = {
        "NVIDIA A100-SXM4-80GB": ("Verda", 1.29),
        "NVIDIA L40S": ("Nebius", 1.5484),
        "NVIDIA RTX PRO 6000 Blackwell Server Edition": ("Verda", 1.69),
        "NVIDIA RTX A6000": ("Lambda", 1.09),
    }
    for name, (provider, per_hour) in names.items():
        priced = PRICES.price(H200.model_copy(update={"name": name}), request())
        assert (priced.provider, priced.per_hour) == (provider, per_hour)
    small = H200.model_copy(update={"name": "NVIDIA A100-SXM4-40GB"})
    assert PRICES.price(small, request()) is None  # other memory, other price
    part = H200.model_copy(update={"name": "NVIDIA H200 MIG 1g.18gb"})
    assert PRICES.price(part, request()) is None
    assert PRICES.price(part, request(price_per_hour=0.4)).per_hour == 0.4
    unknown = H200.model_copy(update={"name": "Some Accelerator"})
    priceless = results(LATENCIES, machine=unknown)
    assert priceless.price is None
    assert priceless.cost_per_inference == [None] * 5
    assert analyse(priceless, request()).picks.cost.batch_size is None


def test_a_callers_price_overrides_the_operators_and_the_tables() -> None:
    own = cost.read_prices(cpu=2.0)
    requested = own.price(CPU, request(price_per_hour=3.0))
    assert requested.per_hour == 3.0
    assert abs(date.fromisoformat(requested.as_of) - datetime.now(UTC).date()) <= timedelta(days=1)
    assert own.price(CPU, request()).per_hour == 2.0
    table = PRICES.price(CPU, request())
    assert (table.per_hour, table.provider) == (0.0496, "Nebius")


@given(st.floats(1e-3, 1e4), st.floats(1e-3, 1e6), st.floats(0.01, 1))
def test_the_cost_of_an_hours_inferences_equals_the_hourly_price(
    per_hour, throughput, utilisation
) -> None:
    price = PRICES.price(CPU, request(price_per_hour=per_hour, utilisation=utilisation))
    each = cost.per_inference(price, throughput)
    assert each * throughput * 3600 * utilisation == pytest.approx(per_hour, rel=1e-9)


def test_drift_and_noise_are_reported() -> None:
    wall = [round(1e6 * (10 + n / 100)) for n in range(400)]
    facts = SizeFacts(batch_size=1, memory=MemoryUse(peak_rss=100.0))
    point = describe_size(1, [Samples(round=0, batch_size=1, wall=wall)], facts, setup(), None)
    assert point.suspect[0].startswith("drift")
    noisy = [1_000_000 if n % 5 else 30_000_000 for n in range(20)]
    point = describe_size(1, [Samples(round=0, batch_size=1, wall=noisy)], facts, setup(), None)
    assert any(doubt.startswith("noise") for doubt in point.suspect)
    hot = Samples(
        round=0, batch_size=1, wall=[10**6] * 8, device=[9 * 10**5] * 8, throttled=["power"]
    )
    doubts = describe_size(1, [hot], facts, setup(), None).suspect
    assert [doubt.partition(":")[0] for doubt in doubts] == ["clocks", "throttled"]
    for what, expected in (
        ({"compiled": False}, "compile"),
        ({"steady": False}, "warm-up"),
        ({"throttled": ["quota"]}, "throttled: the worker's container"),
    ):
        samples = Samples(round=0, batch_size=1, wall=[10**6] * 8, **what)
        [suspicion] = describe_size(1, [samples], facts, setup(), None).suspect
        assert suspicion.startswith(expected)


@pytest.mark.parametrize("counted", ["operations", "bytes_per_call"])
def test_figures_above_the_devices_measured_maximum_are_doubted(counted) -> None:
    for share, doubts in ((1.05, []), (9.3, ["ceilings"])):
        [point] = results({1: 1.0}, **{counted: share * 10e9 / 1000}).points
        assert max(point.compute_share, point.bandwidth_share) == pytest.approx(share)
        assert [doubt.partition(":")[0] for doubt in point.suspect] == doubts
    assert "930 %" in point.suspect[0]


def doubts_of(milliseconds) -> list[str]:
    """Return the kinds of doubts about a series of timings, one word each."""
    wall = [round(value * 1e6) for value in milliseconds]
    facts = SizeFacts(batch_size=1, memory=MemoryUse(peak_rss=100.0))
    point = describe_size(1, [Samples(round=0, batch_size=1, wall=wall)], facts, setup(), None)
    return [doubt.partition(":")[0] for doubt in point.suspect]


def noisy(seed: int, count: int = 256) -> "np.typing.NDArray[np.float64]":
    """Return timings of 10 ms with 2 % of noise, correlated by a half."""
    return 10 + 0.2 * autoregressive(np.random.default_rng(seed), 0.5, count)


def test_a_machine_that_slows_down_midway_is_reported() -> None:
    after = np.arange(256) >= 128
    warming = 1 - np.exp(-np.arange(256) / 60)
    for slower in (0.1 * after, 0.1 * warming, np.linspace(0, 0.1, 256), -0.1 * after):
        reported = [doubts_of(noisy(seed) * (1 + slower)) for seed in range(20)]
        assert all("drift" in doubts for doubts in reported)


def test_a_quiet_machine_raises_no_doubt() -> None:
    assert [doubts_of(noisy(seed)) for seed in range(200)].count([]) >= 198


def test_an_intermittent_neighbour_makes_the_mean_doubtful() -> None:
    order = np.random.default_rng(4)
    busy = (
        np.repeat(order.random(16) < 0.5, 8) * 10.0
    )  # with eight calls each, it takes twice as long
    assert "noise" in doubts_of(noisy(1, 128) + busy)


def test_busy_neighbours_make_a_run_suspect() -> None:
    def suspects(*cores: float | None, sharing: int | None = None) -> list[str]:
        blocks = [
            Samples(round=n, batch_size=1, wall=[10**7] * 8, neighbours=busy, sharing=sharing)
            for n, busy in enumerate(cores)
        ]
        brought = {
            "work": Measurement(
                id="bench_0",
                model=ModelAt(id="a/b", commit="0" * 40, task="fill-mask", library="transformers"),
                request=request(batch_sizes=[1], iterations=8),
            ).model_dump(mode="json", by_alias=True),
            "setup": setup().model_dump(mode="json", by_alias=True),
            "chosen": [],
        }
        facts = [SizeFacts(batch_size=1, memory=MemoryUse(peak_rss=100.0))]
        return conclude((brought, blocks, facts), PRICES).results.suspect

    assert suspects(None, 0.01, 0.15) == []
    [doubt] = suspects(None, 0.01, 0.8)
    assert "0.8 cores" in doubt
    assert suspects(0.0, 0.0, sharing=0) == []
    [doubt] = suspects(0.0, 0.0, sharing=2)
    assert "2 other processes used the GPU" in doubt


def test_a_size_without_a_figure_is_a_gap_in_every_plot() -> None:
    drawn = results({1: 10.0, 2: 12.0}, short=[8])
    for style in ("plotly", "vega-lite", "series"):
        figures = plots.draw(drawn, style)
        assert set(figures) == {"throughput", "latency", "memory_usage", "cost_per_inference"}
    assert plots.draw(drawn, "series")["throughput"]["value"][-1] is None
    assert plots.draw(drawn, "plotly")["latency"]["data"][0]["y"][-1] is None


def test_every_figure_in_the_schema_has_its_unit() -> None:
    schema = Results.model_json_schema(by_alias=True)
    unitless = []
    for name, body in schema["$defs"].items():
        for field, described in body.get("properties", {}).items():
            kinds = [described, *described.get("anyOf", [])]
            is_number = any(kind.get("type") == "number" for kind in kinds)
            if is_number and "unit" not in described and name != "Interval":
                unitless.append(f"{name}.{field}")
    assert unitless == ["Price.utilisation"]  # a share


def test_the_smallest_nearly_best_size_is_optimal_and_states_the_reason() -> None:
    analysis = analyse(results({1: 10.0, 4: 20.22, 16: 80.0}, noise=0.3), request())
    # 4 has 98.9 % of the best throughput, though the lower end of its interval has less than 95 %.
    assert analysis.optimal_batch_size == analysis.picks.balanced.batch_size == 4
    assert "smallest size with 95 %" in analysis.picks.balanced.why
    fastest = analyse(results({1: 10.0, 2: 9.0, 4: 20.0}), request()).picks.latency
    assert fastest.batch_size == 2


def test_a_suspect_run_gets_a_remedy_instead_of_tuning_advice() -> None:
    sure = results({1: 10.0, 2: 12.0, 4: 20.0}, operations=10e9 / 1000, bytes_per_call=10e9 / 1000)
    assert analyse(sure, request()).regime != "unknown"
    in_doubt = sure.model_copy(update={"suspect": ["neighbours: others were busy"]})
    analysis = analyse(in_doubt, request())
    assert analysis.regime == "unknown"
    assert "while nothing else runs" in analysis.resource_recommendations[0]
    undone = ("limits it", "bottleneck", "more throughput", "latency budget below")
    text = " ".join([*analysis.resource_recommendations, *analysis.would_change])
    assert not any(words in text for words in undone)
    assert "MiB" in text  # memory is not in doubt


def test_a_recommended_size_in_doubt_is_marked_as_doubtful() -> None:
    measured = results(LATENCIES)
    points = [
        point.model_copy(update={"suspect": ["noise: too few calls"]})
        if point.batch_size == 8
        else point
        for point in measured.points
    ]
    picks = analyse(measured.model_copy(update={"points": points}), request()).picks
    advice = "measure again first: the figures of 8 are in doubt"
    told = {name: advice in getattr(picks, name).why for name in type(picks).model_fields}
    assert told == {"latency": False, "balanced": True, "throughput": True, "cost": True}


def test_the_advice_for_a_noisy_mean_names_the_iterations_needed() -> None:
    noisy_one = [1_000_000 if n % 5 else 30_000_000 for n in range(20)]
    facts = SizeFacts(batch_size=1, memory=MemoryUse(peak_rss=100.0))
    point = describe_size(1, [Samples(round=0, batch_size=1, wall=noisy_one)], facts, setup(), None)
    assembled = assemble([1], {1: point}, [], setup(), None)
    [first, *_] = analyse(assembled, request()).resource_recommendations
    assert "`iterations`" in first
    needed = int(first.split("at least ")[1].split(" ")[0].replace(",", ""))
    assert needed > 20
    assert analyse(assembled, request()).would_change == []
