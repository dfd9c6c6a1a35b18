"""The desk that callers' handlers share."""

from dataclasses import dataclass

from benchmarker.admission import Admission
from benchmarker.fleet import Fleet
from benchmarker.news import News
from benchmarker.queue import JobQueue
from benchmarker.runs import RunStore
from common.bus import Bus
from common.contracts.measuring import Class


@dataclass(frozen=True)
class Desk:
    """Desk that accepts, finds and queues callers' runs.

    `deployed` are the classes that exist even while none of their workers is present.
    """

    bus: Bus
    runs: RunStore
    admission: Admission
    fleet: Fleet
    queue: JobQueue
    news: News
    deployed: set[Class]
