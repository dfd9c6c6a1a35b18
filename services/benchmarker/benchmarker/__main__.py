"""The control process: `python -m benchmarker`, with the store, the queue and the handlers."""

import uvloop

from benchmarker.admission import Admission, Limits
from benchmarker.benchmarks import Benchmarks
from benchmarker.cost import read_prices
from benchmarker.deliveries import Deliveries
from benchmarker.desk import Desk
from benchmarker.erasure import Erasure
from benchmarker.fleet import Fleet
from benchmarker.news import News
from benchmarker.notices import Notices
from benchmarker.outbox import Outbox
from benchmarker.postings import Postings
from benchmarker.queue import CLASSES, JobQueue
from benchmarker.reports import Reports
from benchmarker.runs import RunStore
from benchmarker.settings import ControlSettings
from benchmarker.upkeep import Upkeep
from benchmarker.verifications import Verifications
from common import jobs, postgres, service
from common.background import lasting


async def main() -> None:
    settings = ControlSettings.from_environment()
    async with (
        service.connect("benchmarker", settings) as running,
        postgres.connect(settings.database_url, "benchmarker", "benchmarker") as database,
    ):
        bus = running.bus
        runs, fleet = RunStore(database), Fleet(database)
        deliveries = Deliveries(database, bus, settings.ack_wait_s)
        outbox, notices = Outbox(bus, database), Notices(database, bus)
        news = News(bus, notices.delivery)
        limits = Limits(
            per_hour=settings.benchmarks_per_hour,
            verified_per_hour=settings.verifications_per_hour,
            max_waiting=settings.max_waiting,
            max_waiting_per_account=settings.max_waiting_per_account,
        )
        queue = JobQueue(
            bus, jobs.Jobs(bus), Postings(database), deliveries, news, settings.ack_wait_s
        )
        prices = read_prices(settings.cpu_price_per_hour, settings.gpu_price_per_hour)
        desk = Desk(
            bus=bus,
            runs=runs,
            admission=Admission(database, limits),
            fleet=fleet,
            queue=queue,
            news=news,
            deployed={c for c in CLASSES if c in settings.worker_classes.split(",")},
        )
        await queue.prepare()
        running.needs.append(lambda: queue.jobs.declared)
        await running.serve(Benchmarks(desk, prices))
        await running.serve(Verifications(desk))
        await running.serve(Reports(runs, deliveries, fleet, outbox, queue, news, prices))
        await running.serve(news)
        await running.serve(Erasure(runs, queue, bus))
        running.instruments.add(database.families, deliveries.observation.families)
        await running.answer_discovery()
        deliveries.listen()
        upkeep = Upkeep(
            queue,
            outbox,
            runs,
            news,
            run_days=settings.run_retention_days,
            trial_days=settings.trial_retention_days,
        )
        sweeping = upkeep.keep(settings.sweep_interval_s)
        async with lasting(sweeping, notices.delivery.run()) as ended:
            await running.run_until_stopped(ended)


if __name__ == "__main__":
    uvloop.run(main())
