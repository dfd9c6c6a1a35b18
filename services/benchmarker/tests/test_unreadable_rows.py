"""Rows that another version of the service stored, which its background work reads."""

import pytest

from benchmarker import notices
from benchmarker.notices import Notices
from common.contracts.benchmarking import CANCEL_RUN, RunName
from common.contracts.webhooks import NOTE, Occurrences, OccurrencesStored
from common.postgres import Database
from common.testing import MemoryBus


class Noted:
    """A webhooks service that lists the runs it was told of."""

    def __init__(self) -> None:
        self.runs: list[str] = []
        self.bus = MemoryBus()
        self.bus.answer(NOTE, self._note)

    async def _note(self, noted: Occurrences) -> OccurrencesStored:
        self.runs += [occurrence.id for occurrence in noted.occurrences]
        return OccurrencesStored()

    def has(self, run: str) -> bool:
        return f"msg_{run}_finished" in self.runs


@pytest.fixture
async def database(idle_stack):
    database = Database(idle_stack.postgres.url("benchmarker"), "benchmarker")
    async with database.pool:
        yield database


@pytest.fixture
async def canceled(waiting_caller) -> list[str]:
    """Return the ids of two canceled runs, the older one first."""
    runs = [await waiting_caller.start() for _ in range(2)]
    for run in runs:
        await waiting_caller.call(CANCEL_RUN, RunName(id=run.id))
    return [run.id for run in runs]


async def execute(database: Database, statement: str, id: str) -> None:
    async with database.connection() as connection:
        await connection.execute(statement.encode(), [id])


@pytest.mark.parametrize(
    "columns",
    [
        """error = '{"newer": true}'""",
        """error = '["newer"]'""",
        """analysis = '["newer"]'""",
        """analysis = '{"optimal_batch_size": 8}', results = '{"batchSizes": [1]}'""",
        """stages = '{"loading": "soon"}'""",
        """stages = '["loading"]'""",
    ],
)
async def test_an_unreadable_run_does_not_block_the_webhooks_of_other_runs(
    database, canceled, columns
) -> None:
    newer, run = canceled
    noted = Noted()
    await execute(database, f"update runs set {columns} where id = %s", newer)
    try:
        await Notices(database, noted.bus).deliver()
    finally:
        await execute(database, "update runs set noted = true where id = %s", newer)
    assert noted.has(run)
    assert not noted.has(newer)


async def test_runs_whose_figures_are_not_recorded_do_not_block_the_webhooks_of_other_runs(
    database, canceled, monkeypatch
) -> None:
    waiting, run = canceled
    noted = Noted()
    monkeypatch.setattr(notices, "MAX_RUNS", 1)
    store = """
    insert into outbox (account, run_id, record) select account, id, '["newer"]' from runs
    where id = %s
    """
    succeeded = """
    update runs set state = 'succeeded', started_at = now(), finished_at = now() where id = %s
    """
    await execute(database, succeeded, waiting)
    await execute(database, "update runs set finished_at = now() where id = %s", run)
    await execute(database, store, waiting)
    try:
        await Notices(database, noted.bus).deliver()
    finally:
        await execute(database, "delete from outbox where run_id = %s", waiting)
        await execute(database, "update runs set state = 'canceled' where id = %s", waiting)
    assert noted.has(run)
    assert not noted.has(waiting)
