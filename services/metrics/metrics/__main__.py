"""The process of the metrics service: `python -m metrics`.

`python -m metrics` serves; `python -m metrics convert` moves a plain database
to TimescaleDB (docs/how-to/monitor.md).
"""

import asyncio
import contextlib
import sys

import uvloop

from common import logs, postgres, service
from common.background import lasting
from metrics import reconnection, rollups
from metrics.convert import convert
from metrics.erasure import Erasure
from metrics.handlers import Handlers
from metrics.settings import MetricsSettings


async def main() -> None:
    settings = MetricsSettings.from_environment()
    logs.configure("metrics", settings.log_level)
    async with (
        postgres.connect(settings.database_url, "metrics", "metrics") as database,
        contextlib.AsyncExitStack() as beside,
        service.connect("metrics", settings) as metrics,
    ):
        handlers = Handlers(
            database,
            metrics.bus,
            settings.max_series,
            settings.max_stored_bytes,
            settings.max_staged_samples,
        )
        # Canceled once the service has drained: its last answers need the writer.
        work = lasting(
            handlers.run(),
            rollups.keep_up(database, settings),
            reconnection.watch(metrics.bus, handlers.forget_all),
        )
        ended = await beside.enter_async_context(work)
        await metrics.serve(handlers)
        await metrics.serve(Erasure(database, metrics.bus))
        metrics.instruments.add(database.families, handlers.families)
        await metrics.answer_discovery()
        await metrics.run_until_stopped(ended)


if __name__ == "__main__":
    if sys.argv[1:] == ["convert"]:
        sys.exit(asyncio.run(convert(MetricsSettings.from_environment().database_url)))
    uvloop.run(main())
