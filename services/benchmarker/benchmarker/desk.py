"""The dependencies that callers' handlers share."""

from dataclasses import dataclass

from benchmarker.admission import Admission
from benchmarker.fleet import Fleet
from benchmarker.news import News
from benchmarker.queue import JobQueue
from benchmarker.runs import RunStore
from common.bus import Bus
from common.contracts.measuring import Class

# Callers that may wait at once, for their runs or for their modules.
MAX_WAITING_CALLERS = 2000


@dataclass(frozen=True)
class Desk:
    """The parts that accept, find and queue callers' runs.

    `deployed`: classes of workers that are started on demand.
    """

    bus: Bus
    runs: RunStore
    admission: Admission
    fleet: Fleet
    queue: JobQueue
    news: News
    deployed: set[Class]
