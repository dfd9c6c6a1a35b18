"""The worker process: `python -m benchmarker.worker`, without a database and without torch."""

import asyncio
import contextlib
import platform
import secrets
import time
from collections.abc import Coroutine, Iterable

import structlog
import uvloop
from pydantic import ValidationError

from benchmarker.refusals import suits
from benchmarker.sealing import Opener
from benchmarker.settings import WorkerSettings
from benchmarker.worker import cache, seal
from benchmarker.worker.child import OutOfMemory, started
from benchmarker.worker.control import BEATS_PER_ACK_WAIT, RunTaken, call_control, heartbeat
from benchmarker.worker.process import Failed
from benchmarker.worker.sandbox import Sandbox, detect
from benchmarker.worker.session import Holder, Session, TrialSession
from common import jobs, logs, service, tracing
from common.bus import NatsBus
from common.context import current
from common.contracts.benchmarking import CANCELED, Failure, RunName
from common.contracts.figures import Device
from common.contracts.measuring import (
    ANNOUNCE,
    END,
    JOB_VERSION,
    MEASURE,
    REPORT,
    TAKE,
    Announcement,
    End,
    JobVersion,
    Measurement,
    Report,
    Take,
)
from common.errors import BenchmarkFailed, ServiceError, Unavailable
from common.jobs import Delivery

log = structlog.get_logger()

DESCRIBE = "benchmarker.worker.device"
# Interval between checks whether this worker is idle.
IDLE_CHECK_S = 0.5

# Control considers a worker absent after a minute.
ANNOUNCE_INTERVAL_S = 15.0
# Lost deliveries in a row, without progress, after which a run is poison.
MAX_LOST_DELIVERIES = 5
# Pause before a job is offered again that arrived while this machine was busy, or that this
# machine cannot run; a machine that can may return within the day.
OFFER_PAUSE_S = 1.0
MAX_OFFERED_S = 24 * 3600.0
# Pause before a job is redelivered that failed through no fault of its own.
RETRY_PAUSE_S = 5.0


class Worker:
    """Worker for the jobs of one class; workers on the same machine share the lock `turn`."""

    def __init__(
        self,
        connection: NatsBus,
        settings: WorkerSettings,
        me: Announcement,
        sandbox: Sandbox,
        turn: asyncio.Lock | None = None,
    ) -> None:
        self.bus = connection
        self.settings = settings
        self.me = me
        self.sandbox = sandbox
        self.turn = turn or asyncio.Lock()
        # Monotonic time at which the last job ended, or this worker started.
        self.last_job = time.monotonic()
        self._session: tuple[str, asyncio.Task[None]] | None = None

    async def cancel(self, canceled: RunName) -> None:
        if self._session and self._session[0] == canceled.id:
            self._session[1].cancel()

    async def announce(self) -> None:
        while True:
            with contextlib.suppress(ServiceError):
                await self.bus.call(ANNOUNCE, self.me)
            await asyncio.sleep(ANNOUNCE_INTERVAL_S)

    async def serve(self) -> None:
        """Run jobs one after another; return after `max_jobs` of them."""
        done = 0
        async for delivery in jobs.pull(self.bus, MEASURE, self.me.device_class):
            if self.turn.locked():  # the machine's other class took a job meanwhile
                await delivery.release(OFFER_PAUSE_S)
            else:
                async with self.turn:
                    await self._serve(delivery)
                done += 1
                self.last_job = time.monotonic()
                if done == self.settings.max_jobs:
                    log.info("leaving", jobs=done)
                    return
            async with self.turn:
                pass  # a job fetched now would be measured while another one runs

    async def wait_until_idle(self, seconds: float) -> None:
        """Return once no job has run for `seconds`."""
        while self.turn.locked() or time.monotonic() - self.last_job < seconds:  # noqa: ASYNC110  (the clock sends no event)
            await asyncio.sleep(IDLE_CHECK_S)
        log.info("leaving", idle_s=seconds)

    async def _serve(self, delivery: Delivery) -> None:
        current.set(delivery.context)
        about = {"lilypad.run": delivery.id, "lilypad.delivery": delivery.number}
        try:
            with tracing.span(MEASURE.subject, "consumer", about):
                await self.work(delivery)
        except ServiceError as error:
            log.warning("job returned to the queue", job=delivery.id, error=error.message)
            await delivery.release(RETRY_PAUSE_S)
        except asyncio.CancelledError:
            await delivery.release(0)
            raise
        except Exception:
            log.exception("job failed", job=delivery.id)
            await delivery.release(RETRY_PAUSE_S)

    async def work(self, delivery: Delivery) -> None:
        """Run, release or dead-letter a job."""
        try:
            needed = JobVersion.model_validate_json(delivery.message.data, extra="ignore").version
            if needed > JOB_VERSION:
                await self._return_newer(delivery, needed)
                return
            work = Measurement.model_validate_json(delivery.message.data, extra="ignore")
        except ValidationError as error:
            await self._fail_unreadable(delivery, error.errors(include_input=False)[0]["msg"])
            return
        if not suits(self.me, work.request, work.weights) and delivery.age < MAX_OFFERED_S:
            await delivery.release(OFFER_PAUSE_S)
            return
        worker = f"{self.me.worker}/{secrets.token_hex(16)}"
        back = Report(id=work.id, worker=worker, given_back=True)
        ack_wait_s = self.settings.ack_wait_s
        async with (
            delivery.heartbeat(ack_wait_s),
            heartbeat(self.bus, Report(id=work.id, worker=worker), ack_wait_s / BEATS_PER_ACK_WAIT),
        ):
            try:
                await self._deliver(delivery, work, worker)
            except asyncio.CancelledError:  # this worker is stopping
                with contextlib.suppress(ServiceError):
                    await self.bus.call(REPORT, back)
                raise
            except Unavailable:  # control is still unavailable
                await call_control(self.bus, REPORT, back)
                raise

    async def _deliver(self, delivery: Delivery, work: Measurement, worker: str) -> None:
        opener = Opener()
        take = Take(id=work.id, worker=worker, sealing_key=opener.key)
        ticket = await call_control(self.bus, TAKE, take)
        if ticket.held:
            await self._leave_to_holder(delivery)
            return
        if not ticket.run:
            await delivery.acknowledge()
            return
        if ticket.lost >= MAX_LOST_DELIVERIES:
            await self._fail_poison(delivery, work, worker)
            return
        if ticket.sealed_hub_token:
            token = opener.open(ticket.sealed_hub_token)
            ticket = ticket.model_copy(update={"hub_token": token})
        device: Device = "cuda" if self.me.device_class == "gpu" else "cpu"
        holder = Holder(worker, device, self.sandbox)
        session: Session | TrialSession = (
            TrialSession(work, ticket, self.settings, self.sandbox)
            if work.trial
            else Session(self.bus, work, holder, ticket, self.settings)
        )
        failure = await self._run(session)
        if failure is not None or session.finished:
            end = End(id=work.id, worker=worker, error=failure, verdict=session.verdict)
            await call_control(self.bus, END, end)
            await delivery.acknowledge()
        elif session.canceled:
            await delivery.acknowledge()

    async def _run(self, session: Session | TrialSession) -> Failure | None:
        """Run a session to the end of its processes; return its failure, None if it has none."""
        task = asyncio.create_task(session.run())
        self._session = (session.work.id, task)
        try:
            async with asyncio.timeout(self.settings.max_run_s):
                await asyncio.shield(task)
            session.finished = True
        except RunTaken:
            log.info("run taken from this worker", run=session.work.id)
        except Failed as error:
            return _failure(422 if error.reason != "crashed" else 500, str(error), error.reason)
        except OutOfMemory as error:
            return _failure(
                422, f"the run needs more memory than the worker has: {error}", "memory"
            )
        except TimeoutError:
            limit = f"{self.settings.max_run_s:g}"
            return _failure(
                504, f"the run took longer than the {limit} s that a run may take", "time"
            )
        except asyncio.CancelledError:
            if not task.cancelled():
                raise  # the worker itself is stopping
            session.canceled = True
        finally:
            self._session = None
            task.cancel()
            await asyncio.wait([task])
        return None

    async def _return_newer(self, delivery: Delivery, needed: int) -> None:
        """Release a job for newer workers; after a day, fail its run."""
        why = f"it needs version {needed} of the job format, the worker has {JOB_VERSION}"
        if delivery.age < MAX_OFFERED_S:
            log.warning("job returned to the queue", job=delivery.id, reason=why)
            await delivery.release(OFFER_PAUSE_S)
        else:
            await self._fail_unreadable(delivery, why)

    async def _leave_to_holder(self, delivery: Delivery) -> None:
        """Release the job of a run that another worker holds, in case that worker dies."""
        await delivery.release(self.settings.ack_wait_s / 3)

    async def _fail_unreadable(self, delivery: Delivery, why: str) -> None:
        """Fail the run, so that its job is not published again, then dead-letter the job.

        The job of a run that another worker holds is released, since that worker could read it.
        """
        worker = f"{self.me.worker}/{secrets.token_hex(16)}"
        message = f"the worker cannot read the run ({why}); update the workers"
        end = End(id=delivery.id, worker=worker, error=_failure(500, message, "unreadable"))
        # The key is thrown away: without one, control refuses a run that needs a Hub token.
        take = Take(id=delivery.id, worker=worker, sealing_key=Opener().key)
        # Without control the run stays unchanged, and fails when its job is published again.
        with contextlib.suppress(ServiceError):
            ticket = await self.bus.call(TAKE, take)
            if ticket.held:
                await self._leave_to_holder(delivery)
                return
            if ticket.run:
                await self.bus.call(END, end)
        await delivery.dead_letter(self.bus, f"cannot be read: {why}")

    async def _fail_poison(self, delivery: Delivery, work: Measurement, worker: str) -> None:
        """Fail the run of a job that keeps ending its workers, then dead-letter the job.

        In this order, so that neither remains alone.
        """
        reason = f"ended its worker {MAX_LOST_DELIVERIES} times"
        failure = _failure(500, f"the run {reason} and is not retried", "poison")
        await call_control(self.bus, END, End(id=work.id, worker=worker, error=failure))
        await delivery.dead_letter(self.bus, reason)


def _failure(status: int, message: str, reason: str) -> Failure:
    return Failure(code=BenchmarkFailed.code, status=status, message=message, reason=reason)


async def describe(name: str, settings: WorkerSettings) -> list[Announcement]:
    """Describe this machine's devices for the classes in `WORKER_TAKES`, in a child process.

    Raises:
        SystemExit: the machine has no device of the classes in `WORKER_TAKES`.
    """
    memory = {"maxMemoryMib": settings.max_memory_mib, "memoryShare": settings.memory_share}
    async with started(DESCRIBE) as child:
        announcements = [Announcement(worker=name, **await child.request(**memory))]
        if announcements[0].device_class == "gpu":
            answer = await child.request(device="cpu", **memory)
            announcements.append(Announcement(worker=f"{name}-cpu", **answer))
    takes = settings.worker_takes.split(",")
    if not (machine := [me for me in announcements if me.device_class in takes]):
        raise SystemExit(
            f"WORKER_TAKES: this machine has no device for jobs of class {settings.worker_takes}"
        )
    return machine


async def _all(works: Iterable[Coroutine[None, None, None]]) -> None:
    await asyncio.gather(*works)


def isolate(settings: WorkerSettings) -> Sandbox:
    """Return this machine's sandbox, and log the missing kinds of isolation.

    Raises:
        SystemExit: `REQUIRE_ISOLATION` is set, and isolation is incomplete.
    """
    sandbox = detect()
    missing = ", ".join(sandbox.missing)
    if missing and settings.require_isolation:
        raise SystemExit(
            f"REQUIRE_ISOLATION: this machine cannot isolate a model's {missing}; install"
            " bubblewrap, allow this worker to create namespaces, and limit its container's memory"
        )
    # All of a model's processes together; without a bound only each of them is limited.
    memory = "cgroup" if sandbox.groups else "unbounded" if "memory" in missing else "container"
    if missing:
        log.warning("isolation incomplete", missing=missing, memory=memory)
    else:
        log.info("isolation complete", memory=memory)
    return sandbox


async def main() -> None:
    settings = WorkerSettings.from_environment()
    logs.configure("worker", settings.log_level)
    seal.hide()
    seal.adopt_orphans()
    cache.delete_left_over(settings)
    sandbox = isolate(settings)
    name = f"{platform.node()}-{secrets.token_hex(3)}"
    machine = [
        me.model_copy(update={"missing_isolation": list(sandbox.missing)})
        for me in await describe(name, settings)
    ]
    async with service.connect("worker", settings) as running:
        turn = asyncio.Lock()
        workers = [Worker(running.bus, settings, me, sandbox, turn) for me in machine]
        for worker in workers:
            await running.bus.subscribe(CANCELED, worker.cancel)
        await running.answer_discovery()
        tasks = [
            *(asyncio.create_task(worker.announce()) for worker in workers),
            *(asyncio.create_task(worker.serve()) for worker in workers),
            asyncio.create_task(running.run_until_stopped()),
        ]
        if settings.max_idle_s is not None:
            idle = (worker.wait_until_idle(settings.max_idle_s) for worker in workers)
            tasks.append(asyncio.create_task(_all(idle)))
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        for task in tasks:
            task.cancel()
        for result in await asyncio.gather(*tasks, return_exceptions=True):
            if isinstance(result, Exception):
                raise result


if __name__ == "__main__":
    uvloop.run(main())
