"""The search for the recorded model most similar to a misspelt id."""

import difflib
import random
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from contextvars import ContextVar
from datetime import UTC, datetime

import pytest

from common.contracts.history import HistoryRequest, Moments, RecallRequest
from common.contracts.monitoring import MonitorRequest
from common.contracts.reading import SamplesDeletion, SamplesRequest
from common.errors import NotFound
from common.postgres import Connection, Database
from metrics.nearest import HUB, MAX_ALIGNED, MAX_CHARACTERS, nearest

from .conftest import Caller
from .test_alerts import record

MODEL = "lilypad/tiny-text-classification"
WRONG = "lilypad/tiny-text-clasification"


@pytest.fixture
def aligned(monkeypatch: pytest.MonkeyPatch) -> list[difflib.SequenceMatcher[str]]:
    """Record each comparison of two ids by difflib, which takes quadratic time."""
    noted: list[difflib.SequenceMatcher[str]] = []
    align = difflib.SequenceMatcher.ratio

    def ratio(matcher: difflib.SequenceMatcher[str]) -> float:
        noted.append(matcher)
        return align(matcher)

    monkeypatch.setattr(difflib.SequenceMatcher, "ratio", ratio)
    return noted


async def refusal(caller: Caller, model: str) -> str:
    with pytest.raises(NotFound) as refused:
        await caller.monitor(model)
    return refused.value.message


@pytest.mark.parametrize("length", [MAX_CHARACTERS, MAX_CHARACTERS + 1, 199])
async def test_a_misspelt_id_is_aligned_with_few_ids_and_with_no_long_one(
    caller: Caller, aligned: list[difflib.SequenceMatcher[str]], length: int
) -> None:
    """Random ids of two letters take the most time, and have similar letter counts."""
    choose = random.Random(1)
    ids = ["".join(choose.choices("ab", k=length)) for _ in range(100)]
    await caller.record(*({**record(0, latency=1.0), "model_id": id} for id in ids))
    wrong = ids[0][:-1] + "c"
    message = await refusal(caller, wrong)
    if length > MAX_CHARACTERS:
        assert (len(aligned), "check `modelId`" in message) == (0, True)
    else:
        assert 1 <= len(aligned) <= MAX_ALIGNED
        assert f"did you mean `{ids[0]}`?" in message
    aligned.clear()
    await refusal(caller, "a" * 256)
    assert not aligned


@pytest.mark.parametrize("what", ["monitor", "read", "delete", "history", "recall"])
async def test_ids_are_compared_in_a_thread_while_no_connection_is_held(
    caller: Caller, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    """Otherwise other requests of the replica would wait, or lack a connection."""
    await caller.record({**record(0, latency=1.0), "model_id": MODEL})
    borrowed: ContextVar[bool] = ContextVar("borrowed", default=False)
    borrow, align = Database.connection, difflib.SequenceMatcher.ratio
    seen: list[tuple[bool, bool]] = []

    @asynccontextmanager
    async def connection(database: Database) -> AsyncIterator[Connection]:
        reset = borrowed.set(True)
        try:
            async with borrow(database) as connection:
                yield connection
        finally:
            borrowed.reset(reset)

    def ratio(matcher: difflib.SequenceMatcher[str]) -> float:
        seen.append((threading.current_thread() is threading.main_thread(), borrowed.get()))
        return align(matcher)

    monkeypatch.setattr(Database, "connection", connection)
    monkeypatch.setattr(difflib.SequenceMatcher, "ratio", ratio)
    with pytest.raises(NotFound) as refused:
        await ask(caller, what, WRONG)
    assert f"did you mean `{MODEL}`?" in refused.value.message
    assert set(seen) == {(False, False)}


async def ask(caller: Caller, what: str, model: str) -> None:
    handlers = caller.handlers
    at = datetime.now(UTC)
    handler, request = {
        "monitor": (handlers.monitor, MonitorRequest(model_id=model)),
        "read": (handlers.read_samples, SamplesRequest(model_id=model, metric="latency")),
        "delete": (handlers.delete_samples, SamplesDeletion(model_id=model)),
        "history": (handlers.history, HistoryRequest(model_id=model, since=at)),
        "recall": (handlers.recall, RecallRequest(model_id=model, moments=Moments.pack([]))),
    }[what]
    await caller.call(handler, request)


@pytest.mark.parametrize("written", [WRONG, HUB + MODEL, "Lilypad/tiny-text-classification"])
def test_the_most_similar_of_many_ids_is_suggested(written: str) -> None:
    others = [f"lilypad/tiny-text-generation-{n}" for n in range(200)]
    assert nearest(written, [*others, MODEL]) == MODEL
    assert nearest(written, ["organisation/another"]) is None


def test_a_misspelt_end_is_recognised_regardless_of_the_order_of_recording() -> None:
    choose = random.Random(1)
    ids = ["".join(choose.choices("ab", k=MAX_CHARACTERS)) for _ in range(100)]
    meant, wrong = ids[0], ids[0][:-1] + "c"
    for _ in range(10):
        choose.shuffle(ids)
        assert nearest(wrong, ids) == meant
