"""Control: `python -m benchmarker`. Wires the store, the queue and the handlers together."""

import asyncio
import contextlib

import structlog
import uvloop

from benchmarker.control import Control
from benchmarker.cost import read_prices
from benchmarker.runs import Limits, RunStore
from benchmarker.settings import ControlSettings
from common import jobs, postgres, service
from common.contracts.benchmarking import (
    BENCHMARK,
    CANCEL_RUN,
    GET_RUN,
    LIST_RUNS,
    PLOT_RUN,
    PROFILE,
    PROGRESSED,
    WAIT_FOR_RUN,
)
from common.contracts.measuring import ANNOUNCE, END, MEASURE, REPORT, TAKE, Class
from common.contracts.verification import (
    CANCEL_VERIFICATION,
    GET_VERIFICATION,
    TRIED,
    VERIFY,
    WAIT_FOR_VERIFICATION,
)
from common.errors import ServiceError

log = structlog.get_logger()

CLASSES: tuple[Class, ...] = ("cpu", "gpu")
# Callers that wait for their runs at the same time.
WAITING = 2000


async def main() -> None:
    settings = ControlSettings.from_environment()
    async with (
        service.connect("benchmarker", settings) as running,
        postgres.connect(settings.database_url, "benchmarker", "benchmarker") as database,
    ):
        queue = jobs.Jobs(running.bus)
        await queue.prepare(MEASURE, CLASSES, ack_wait=settings.ack_wait)
        control = Control(
            running.bus,
            RunStore(
                database,
                Limits(
                    settings.benchmarks_per_hour,
                    settings.most_waiting,
                    settings.verifications_per_hour,
                ),
            ),
            queue,
            read_prices(settings.cpu_price_per_hour, settings.gpu_price_per_hour),
            {c for c in CLASSES if c in settings.worker_classes.split(",")},
        )
        await running.answer(BENCHMARK, control.start)
        await running.answer(GET_RUN, control.get)
        await running.answer(LIST_RUNS, control.newest)
        await running.answer(CANCEL_RUN, control.cancel)
        await running.answer(WAIT_FOR_RUN, control.wait, at_once=WAITING)
        await running.answer(PLOT_RUN, control.plot)
        await running.answer(PROFILE, control.profile)
        await running.answer(VERIFY, control.verify)
        await running.answer(GET_VERIFICATION, control.verification)
        await running.answer(CANCEL_VERIFICATION, control.cancel_verification)
        await running.answer(WAIT_FOR_VERIFICATION, control.wait_for_verification, at_once=WAITING)
        await running.answer(ANNOUNCE, control.announce)
        await running.answer(TAKE, control.take)
        await running.answer(REPORT, control.report)
        await running.answer(END, control.end)
        await running.listen(PROGRESSED, control.hear, shared=False)
        await running.listen(TRIED, control.hear_tried, shared=False)
        await running.answer_discovery()
        sweeping = asyncio.create_task(sweep(control, settings.sweep_interval))
        await running.run_until_stopped()
        sweeping.cancel()


async def sweep(control: Control, seconds: float) -> None:
    """See to it, for ever, that what is a row is also on its way."""
    while True:
        with contextlib.suppress(ServiceError):  # the queue or the database is away: next time
            await control.sweep()
        with contextlib.suppress(ServiceError):
            await control.deliver()
        await asyncio.sleep(seconds)


if __name__ == "__main__":
    uvloop.run(main())
