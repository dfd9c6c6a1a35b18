"""Real models, measured by a worker at the request of a caller on the bus."""

import asyncio
import contextlib
import math

import psutil
import pytest

from benchmarker.worker.session import MEASURE
from common.contracts.benchmarking import (
    CANCEL_RUN,
    GET_RUN,
    PLOT_RUN,
    PROFILE,
    PlotRequest,
    ProfileRequest,
    RunName,
)
from common.errors import BenchmarkFailed, NotFound


@pytest.fixture(scope="package")
async def measured(caller):
    """A run of the account of `caller`, shared by several tests."""
    model = "lilypad/lifelike-llama"
    return await caller.measure(model, batch_sizes=[4, 1], new_tokens=4, steps=2)


async def test_a_models_measured_figures_are_consistent(measured, models) -> None:
    run = measured
    # The repository holds another shard, which no index lists.
    [folder] = models.glob(f"lilypad/*/snapshots/{run.commit}")
    assert len(list(folder.glob("*.safetensors"))) == 2
    results = run.results
    assert results.batch_sizes == [4, 1]  # as requested
    for size, throughput, latency in zip(
        results.batch_sizes, results.throughput, results.latency, strict=True
    ):
        assert throughput * latency / 1000 == pytest.approx(size, rel=1e-9)
    assert all(memory > 50 for memory in results.memory_usage)  # in MiB; every process takes more
    assert all(cost > 0 for cost in results.cost_per_inference)
    assert run.progress.done == run.progress.total == 16
    assert list(run.stages) == ["fetching", "loading", "warming", "measuring"]
    times = [run.started_at, *run.stages.values(), run.finished_at]
    assert times == sorted(times)
    assert run.analysis.optimal_batch_size in {1, 4}
    assert run.analysis.resource_recommendations
    assert results.setup.task == "text-generation"
    for point in results.points:
        assert point.latency.samples == 8
        assert point.latency.p90 is None
        assert "64" in point.latency.missing["p90"]
        assert point.energy.per_inference is None
        assert point.energy.missing
        generation = point.generation
        assert generation.time_to_first_token.samples == 8
        assert generation.inter_token_latency.samples == 8 * 3  # 4 tokens have 3 gaps
        parts = generation.time_to_first_token.mean + 3 * generation.inter_token_latency.mean
        assert parts <= point.latency.mean  # the parts do not exceed the whole


async def test_plots_of_all_formats_show_the_same_figures(caller, measured) -> None:
    run = measured
    plots = {
        style: (await caller.call(PLOT_RUN, PlotRequest(id=run.id, plot_format=style))).plots
        for style in ("plotly", "vega-lite", "series")
    }
    names = ("throughput", "latency", "memory_usage", "cost_per_inference")
    for name in names:
        expected = getattr(run.results, name)[::-1]  # from the smallest size on
        trace = plots["plotly"][name]["data"][0]
        assert (trace["x"], trace["y"]) == ([1, 4], expected)
        assert plots["series"][name]["value"] == expected
        rows = plots["vega-lite"][name]["data"]["values"]
        assert [row["value"] for row in rows] == expected
    assert all(math.isfinite(value) for value in plots["series"]["latency"]["low"])


async def test_a_run_is_missing_for_other_accounts(measured, new_caller, new_reader) -> None:
    run = measured
    stranger = new_caller()
    with pytest.raises(NotFound) as of_another:
        await stranger.call(GET_RUN, RunName(id=run.id))
    with pytest.raises(NotFound) as of_nobody:
        await stranger.call(GET_RUN, RunName(id="bench_" + "0" * 24))
    assert of_another.value.to_wire() == of_nobody.value.to_wire()
    profile_request = ProfileRequest(model_id=run.model_id, commit=run.commit)
    assert (await new_reader(stranger).call(PROFILE, profile_request)).run_id is None


async def test_the_generator_reads_a_models_measured_profile(caller, measured, new_reader) -> None:
    run = measured
    request = ProfileRequest(model_id=run.model_id, commit=run.commit)
    profile = await new_reader(caller).call(PROFILE, request)
    assert profile.run_id == run.id
    assert profile.batch_size == run.analysis.optimal_batch_size
    index = run.results.batch_sizes.index(profile.batch_size)
    assert profile.peak_memory == run.results.memory_usage[index]


async def test_an_attention_implementation_that_no_worker_has_is_refused(caller) -> None:
    with pytest.raises(BenchmarkFailed, match="is not installed on the workers") as refused:
        await caller.start(attention="flash_attention_2")
    assert (refused.value.status, refused.value.details["reason"]) == (422, "attention")


async def test_a_canceled_run_stops_without_a_remaining_process(stack, caller) -> None:
    run = await caller.start(batch_sizes=[1], iterations=10_000)
    worker = psutil.Process(stack.processes["worker-1"].pid)
    measuring = None
    while measuring is None:  # the process with torch; the one before it fetches
        await asyncio.sleep(0.1)
        with contextlib.suppress(psutil.NoSuchProcess):
            measuring = next((c for c in worker.children() if MEASURE in c.cmdline()), None)
    run = await caller.call(CANCEL_RUN, RunName(id=run.id))
    assert run.state == "canceled"
    with contextlib.suppress(psutil.NoSuchProcess):
        while measuring.status() != psutil.STATUS_ZOMBIE:
            await asyncio.sleep(0.02)
    assert (await caller.call(CANCEL_RUN, RunName(id=run.id))).state == "canceled"
