"""The worker: `python -m benchmarker.worker`. It has no database, and no torch in this process."""

import asyncio
import contextlib
import platform
import secrets

import structlog
import uvloop
from pydantic import ValidationError

from benchmarker.refusals import suits
from benchmarker.settings import WorkerSettings
from benchmarker.worker.child import Failed, OutOfMemory, started
from benchmarker.worker.session import MEASURE as MEASURE_CHILD
from benchmarker.worker.session import LetGo, Me, Session, Trying, patiently
from common import jobs, service
from common.bus import NatsBus
from common.context import current
from common.contracts.benchmarking import CANCELED, Failure, RunName
from common.contracts.measuring import (
    ANNOUNCE,
    END,
    MEASURE,
    REPORT,
    TAKE,
    Announcement,
    End,
    Measurement,
    Report,
    Take,
)
from common.errors import ServiceError, Unavailable
from common.jobs import Delivery

log = structlog.get_logger()

# Control takes a worker for gone after a minute.
ANNOUNCE_EVERY = 15.0
# Deliveries that a run may end in a row, without a word and without progress; then it is poison.
MOST_LOST = 5
FAILED = 1004
# After so many seconds a job that came while this machine was busy, or that this machine cannot do,
# is offered again; for a day, in which the one that can may come back.
ELSEWHERE = 1.0
OFFERED = 24 * 3600.0


class Worker:
    """Takes the jobs of one class; those of its machine's other class share `turn` with it."""

    def __init__(
        self,
        connection: NatsBus,
        settings: WorkerSettings,
        me: Announcement,
        turn: asyncio.Lock | None = None,
    ) -> None:
        self.bus = connection
        self.settings = settings
        self.me = me
        self.turn = turn or asyncio.Lock()
        self._session: tuple[str, asyncio.Task[None]] | None = None

    async def hear_cancel(self, canceled: RunName) -> None:
        if self._session and self._session[0] == canceled.id:
            self._session[1].cancel()

    async def announce(self) -> None:
        while True:
            with contextlib.suppress(ServiceError):
                await self.bus.call(ANNOUNCE, self.me)
            await asyncio.sleep(ANNOUNCE_EVERY)

    async def serve(self) -> None:
        async for delivery in jobs.pull(self.bus, MEASURE, self.me.device_class):
            if self.turn.locked():  # it came while the machine's other class was given a job
                await delivery.again(ELSEWHERE)
            else:
                async with self.turn:
                    await self._serve(delivery)
            async with self.turn:
                pass  # what came now would be measured beside another job

    async def _serve(self, delivery: Delivery) -> None:
        current.set(delivery.context)
        try:
            await self.work(delivery)
        except ServiceError as error:
            log.warning("job given back", job=delivery.id, error=error.message)
            await delivery.again(5)
        except asyncio.CancelledError:
            await delivery.again(0)
            raise
        except Exception:
            log.exception("job failed", job=delivery.id)
            await delivery.again(5)

    async def work(self, delivery: Delivery) -> None:
        """Run a job to its end, or give it up with a reason."""
        try:
            work = Measurement.model_validate_json(delivery.message.data, extra="ignore")
        except ValidationError as error:
            reason = f"cannot be read: {error.errors(include_input=False)[0]['msg']}"
            await delivery.bury(self.bus, reason)
            return
        if not suits(self.me, work.request, work.weights) and delivery.age < OFFERED:
            await delivery.again(ELSEWHERE)
            return
        worker = f"{self.me.worker}/{secrets.token_hex(4)}"
        back = Report(id=work.id, worker=worker, given_back=True)
        async with delivery.kept(self.settings.ack_wait):
            try:
                await self._deliver(delivery, work, worker)
            except asyncio.CancelledError:  # this worker is stopping
                with contextlib.suppress(ServiceError):
                    await self.bus.call(REPORT, back)
                raise
            except Unavailable:  # control is away
                await patiently(self.bus, REPORT, back)
                raise

    async def _deliver(self, delivery: Delivery, work: Measurement, worker: str) -> None:
        ticket = await patiently(self.bus, TAKE, Take(id=work.id, worker=worker))
        if not ticket.run:
            await delivery.done()
            return
        if ticket.lost >= MOST_LOST:
            await self._give_up(delivery, work, worker)
            return
        me = Me(worker, "cuda" if self.me.device_class == "gpu" else "cpu")
        session: Session | Trying = (
            Trying(work, self.settings)
            if work.trial
            else Session(self.bus, work, me, ticket, self.settings)
        )
        failure = await self._run(session)
        if failure is not None or session.finished:
            end = End(id=work.id, worker=worker, error=failure, verdict=session.verdict)
            await patiently(self.bus, END, end)
            await delivery.done()
        elif session.canceled:
            await delivery.done()

    async def _run(self, session: Session | Trying) -> Failure | None:
        """How the session failed, if it did; a cancel kills what runs before this returns."""
        task = asyncio.create_task(session.run())
        self._session = (session.work.id, task)
        try:
            async with asyncio.timeout(self.settings.longest_run):
                await asyncio.shield(task)
            session.finished = True
        except LetGo:
            log.info("run let go", run=session.work.id)
        except Failed as error:
            return _failure(422 if error.reason != "crashed" else 500, str(error), error.reason)
        except OutOfMemory as error:
            return _failure(422, f"the run needs more memory than there is: {error}", "memory")
        except TimeoutError:
            limit = f"{self.settings.longest_run:g}"
            return _failure(504, f"the run took longer than {limit} s", "time")
        except asyncio.CancelledError:
            if not task.cancelled():
                raise  # the worker itself is stopping
            session.canceled = True
        finally:
            self._session = None
            task.cancel()
            await asyncio.wait([task])
        return None

    async def _give_up(self, delivery: Delivery, work: Measurement, worker: str) -> None:
        """The row first, then the dead letter: neither is left behind alone."""
        reason = f"ended its worker {MOST_LOST} times"
        failure = _failure(500, f"the run {reason}; it is not tried again", "poison")
        await patiently(self.bus, END, End(id=work.id, worker=worker, error=failure))
        await delivery.bury(self.bus, reason)


def _failure(status: int, message: str, reason: str) -> Failure:
    return Failure(code=FAILED, status=status, message=message, reason=reason)


async def describe(name: str, settings: WorkerSettings) -> list[Announcement]:
    """This machine, by a child that has torch: its GPU where it has one, and its processor.

    Raises:
        SystemExit: it has nothing of what this worker is to take.
    """
    memory = {"mostMemory": settings.most_memory, "memoryShare": settings.memory_share}
    async with started(MEASURE_CHILD) as child:
        found = [Announcement(worker=name, **await child.ask(do="describe", **memory))]
        if found[0].device_class == "gpu":
            answer = await child.ask(do="describe", device="cpu", **memory)
            found.append(Announcement(worker=f"{name}-cpu", **answer))
    takes = settings.worker_takes.split(",")
    if not (machine := [me for me in found if me.device_class in takes]):
        raise SystemExit(f"this machine has nothing for jobs of class {settings.worker_takes}")
    return machine


async def main() -> None:
    settings = WorkerSettings.from_environment()
    machine = await describe(f"{platform.node()}-{secrets.token_hex(3)}", settings)
    async with service.connect("worker", settings) as running:
        turn = asyncio.Lock()
        workers = [Worker(running.bus, settings, me, turn) for me in machine]
        for worker in workers:
            await running.bus.subscribe(CANCELED, worker.hear_cancel)
        await running.answer_discovery()
        tasks = [
            *(asyncio.create_task(worker.announce()) for worker in workers),
            *(asyncio.create_task(worker.serve()) for worker in workers),
            asyncio.create_task(running.run_until_stopped()),
        ]
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        for task in tasks:
            task.cancel()
        for result in await asyncio.gather(*tasks, return_exceptions=True):
            if isinstance(result, Exception):
                raise result


if __name__ == "__main__":
    uvloop.run(main())
