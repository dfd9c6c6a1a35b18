"""The metrics service: samples in, statistics, plots and alerts out.

`python -m metrics` serves; `python -m metrics convert` moves a plain database
to TimescaleDB (docs/how-to/monitor.md).
"""

import asyncio
import contextlib
import sys

import uvloop

from common import logs, postgres, service
from common.contracts.monitoring import (
    ADD_RULE,
    FIND_MODEL,
    HISTORY,
    LIST_ALERTS,
    LIST_RULES,
    MONITOR,
    RECALL,
    RECORD,
    REMOVE_RULE,
)
from metrics import rollups
from metrics.convert import convert
from metrics.handlers import Handlers
from metrics.settings import MetricsSettings

# Calls that wait for the same commit.
RECORDS_AT_ONCE = 512


async def main() -> None:
    settings = MetricsSettings.from_environment()
    logs.configure("metrics", settings.log_level)
    async with postgres.connect(settings.database_url, "metrics", "metrics") as database:
        async with service.connect("metrics", settings) as metrics:
            handlers = Handlers(database, metrics.bus, settings.most_series)
            work = asyncio.create_task(run(handlers, database, settings))
            await metrics.answer(RECORD, handlers.record, at_once=RECORDS_AT_ONCE)
            await metrics.answer(MONITOR, handlers.monitor, at_once=8)
            await metrics.answer(HISTORY, handlers.history, at_once=8)
            await metrics.answer(RECALL, handlers.recall, at_once=8)
            await metrics.answer(FIND_MODEL, handlers.find_model)
            await metrics.answer(LIST_ALERTS, handlers.list_alerts)
            await metrics.answer(LIST_RULES, handlers.list_rules)
            await metrics.answer(ADD_RULE, handlers.add_rule)
            await metrics.answer(REMOVE_RULE, handlers.remove_rule)
            await metrics.answer_discovery()
            serving = asyncio.create_task(metrics.run_until_stopped())
            # The work beside the answers never ends by itself; if it does, so does the process.
            await asyncio.wait([serving, work], return_when=asyncio.FIRST_COMPLETED)
        # Everything received has been answered, with the writer still at work.
        work.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await work


async def run(handlers: Handlers, database: postgres.Database, settings: MetricsSettings) -> None:
    async with asyncio.TaskGroup() as beside:
        beside.create_task(handlers.run())
        beside.create_task(rollups.keep_up(database, settings))


if __name__ == "__main__":
    if sys.argv[1:] == ["convert"]:
        sys.exit(asyncio.run(convert(MetricsSettings.from_environment().database_url)))
    uvloop.run(main())
