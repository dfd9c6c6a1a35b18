"""Delivery of finished runs to the webhooks service, repeated until confirmed.

Confirmation is recorded in the run's own row, so that nothing is lost with a process; the webhooks
service ignores duplicates.
"""

from functools import partial
from typing import Any

from benchmarker import verifications
from benchmarker.runs import RECORDING, Row, run_of, select
from common.background import Repeated
from common.bus import Bus
from common.contracts.webhooks import NOTE, Occurrence, Occurrences
from common.postgres import Database
from common.unreadable import Unreadable

# A run's results take up to 100 kB, and the bus carries 1 MB.
MAX_RUNS = 8
# Interval at which runs ended by another replica, or missed by the webhooks service, are sent.
DELIVERY_PERIOD_S = 5.0
# A run counts as finished only once its figures are recorded.
UNNOTED = f"""
where not noted and finished_at is not null and not {RECORDING} and not (id = any(%s))
order by finished_at limit %s
"""
NOTED = "update runs set noted = true where id = any(%s)"


class Notices:
    def __init__(self, database: Database, bus: Bus) -> None:
        self.database = database
        self.bus = bus
        self.unreadable = Unreadable("run")
        self.delivery = Repeated(self.deliver, DELIVERY_PERIOD_S)

    async def deliver(self) -> None:
        """Send every finished run that is not confirmed, oldest first.

        Raises:
            Unavailable: the webhooks service is unavailable; the next sweep sends them again.
        """
        while True:
            async with self.database.connection() as connection:
                rows = await select(connection, UNNOTED, [self.unreadable.ids, MAX_RUNS])
            readable = {
                row["id"]: occurrence
                for row in rows
                if (occurrence := self.unreadable.read(row["id"], partial(_occurrence, row)))
            }
            if readable:
                await self.bus.call(NOTE, Occurrences(occurrences=[*readable.values()]))
                async with self.database.connection() as connection:
                    await connection.execute(NOTED, [[*readable]])
            if len(rows) < MAX_RUNS:
                return


def _occurrence(row: Row) -> Occurrence:
    run = run_of(row)
    finished: Any = run.finished_at
    if row["kind"] == "measure":
        return Occurrence(
            id=f"msg_{run.id}_finished",
            account=row["account"],
            type="benchmark.finished",
            at=finished,
            data=run.model_dump(mode="json", by_alias=True, exclude={"plots", "queue"}),
        )
    verification = verifications.describe(run, row).verification
    assert verification is not None, "a run of this kind has one"
    data = verification.model_dump(mode="json", by_alias=True, exclude={"queue"})
    return Occurrence(
        id=f"msg_{run.id}_finished",
        account=row["account"],
        type="verification.finished",
        at=finished,
        data={"modelId": run.model_id, "commit": run.commit, **data},
    )
