"""Lists of an account's runs."""

import pytest
from benchmark_caller import MODEL, Caller

from common.contracts.benchmarking import LIST_RUNS, RunsRequest
from common.errors import InvalidModel


async def test_the_runs_of_one_model_are_listed_by_any_form_of_its_address(idle_connection) -> None:
    caller = Caller(idle_connection)
    site = f"https://huggingface.co/{MODEL}"
    await caller.start("lilypad/tiny-feature-extraction")
    newest = await caller.start()
    by_address = await caller.start(f"{site}/tree/v1")
    by_field = await caller.start(revision="v1")
    every_run = [by_field.id, by_address.id, newest.id]
    listed = {
        MODEL: every_run,
        f" https://HF.co//{MODEL}/?x=1#y ": every_run,
        f"{site}/tree/main": every_run,
        MODEL.upper(): every_run,  # the Hub's ids are the same in any case
        f"{MODEL}/tree/v1": every_run[:2],
        f"{MODEL}/tree/v2": [],
        "lilypad/none": [],
    }
    for name, ids in listed.items():
        page = await caller.call(LIST_RUNS, RunsRequest(model_id=name))
        assert [run.id for run in page.runs] == ids, name
    page = await caller.call(LIST_RUNS, RunsRequest(model_id=MODEL, limit=2))
    rest = await caller.call(LIST_RUNS, RunsRequest(model_id=MODEL, before=page.next))
    assert [run.id for run in (*page.runs, *rest.runs)] == every_run
    with pytest.raises(InvalidModel, match="this is the address of a dataset"):
        await caller.call(LIST_RUNS, RunsRequest(model_id="https://huggingface.co/datasets/a/b"))
