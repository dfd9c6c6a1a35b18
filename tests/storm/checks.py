"""Checks after the storm, each with its figure."""

import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

import psycopg

from local.stack import Stack
from storm.clients import Clients
from storm.faults import Fault
from storm.pace import Pace

# In seconds of a machine that has a core left (`pace`).
READY_S, BACK_S = 5.0, 10.0
GENERATIONS, MINUTE_S = 10, 60.0
MAX_GROWTH_MIB = 64.0
# With less of a core left, no fault lasts long enough to be judged.
MIN_SHARE = 0.7
# Max time for interrupted work to end, on a machine that does other work too.
SETTLE_S = 300.0
ENDED = ("succeeded", "failed", "canceled")


@dataclass(frozen=True)
class Check:
    """A line of the table; a `timed` check depends on the machine's speed too."""

    name: str
    figure: str
    holds: bool
    timed: bool = False


def wait_for(true: Callable[[], bool]) -> bool:
    deadline = time.monotonic() + SETTLE_S
    while not (done := true()) and time.monotonic() < deadline:
        time.sleep(0.5)
    return done


def check(
    stack: Stack, clients: Clients, faults: list[Fault], growth: dict[str, float], pace: Pace
) -> list[Check]:
    largest = max(growth, key=growth.__getitem__)
    return [
        *_answers(clients),
        *_records(stack, clients),
        *_runs(stack, clients),
        *_sockets(clients, faults, pace),
        *_limits(clients, faults),
        *judge_readiness(clients, faults, pace),
        Check(
            f"largest growth of a process's memory ({largest})",
            f"{growth[largest]:.0f} of {MAX_GROWTH_MIB:.0f} MiB",
            growth[largest] <= MAX_GROWTH_MIB,
        ),
    ]


def _answers(clients: Clients) -> list[Check]:
    wrong = clients.log.wrong
    text = ", ".join(f"{status}: {n}" for status, n in sorted(clients.log.answers.items()))
    return [
        Check("answers by status (0: broken connection)", text, clients.log.answers[200] > 0),
        Check("answers that nobody should get", _first(wrong), not wrong),
    ]


def _records(stack: Stack, clients: Clients) -> list[Check]:
    log, account = clients.log, clients.recorder
    query = (
        "select (extract(epoch from at - '2000-01-01Z') * 1e6)::bigint from samples"
        " where series in (select id from series where account = %s)"
    )
    with psycopg.connect(stack.postgres.url("metrics")) as database:
        stored = [moment for (moment,) in database.execute(query, [account.id])]
    lost, invented = log.acknowledged - set(stored), set(stored) - log.sent

    def counted() -> int:
        answer = account.post("/v1/api/monitor", {"modelId": "m"})
        if answer.status_code != 200:
            return -1
        return int(answer.json()["data"]["statistics"]["latency"]["count"])

    agrees = wait_for(lambda: counted() == len(stored))
    return [
        Check(
            "acknowledged samples that are lost",
            f"{len(lost)} of {len(log.acknowledged)}",
            not lost,
        ),
        Check("samples that nobody sent", str(len(invented)), not invented),
        Check("samples that statistics count", f"{counted()} of {len(stored)} stored", agrees),
    ]


def _runs(stack: Stack, clients: Clients) -> list[Check]:
    log = clients.log
    query = "select id, state from runs where account = %s"
    states: dict[str, str] = {}

    def all_ended() -> bool:
        with psycopg.connect(stack.postgres.url("benchmarker")) as database:
            states.update(database.execute(query, [clients.runner.id]).fetchall())
        return all(state in ENDED for state in states.values())

    wait_for(all_ended)
    stuck = [id for id, state in states.items() if state not in ENDED]
    twice = [key for key, ids in log.runs.items() if len(ids) > 1]
    lost = {id for ids in log.runs.values() for id in ids} - set(states)
    more = max(len(states) - len(log.keys), 0)
    counts = Counter(states.values())
    text = ", ".join(f"{n} {state}" for state, n in sorted(counts.items()))
    return [
        Check("runs by state", text, counts["succeeded"] > 0),
        Check("runs that are stuck", _first(stuck), not stuck),
        Check("accepted runs that are lost", str(len(lost)), not lost),
        Check("keys with two runs", f"{len(twice)} of {len(log.keys)}", not twice),
        Check("more runs than keys", str(more), not more),
    ]


def _sockets(clients: Clients, faults: list[Fault], pace: Pace) -> list[Check]:
    expected = set(clients.log.watched) - {0}
    followers = clients.followers
    wait_for(lambda: all(expected <= set(follower.numbers) for follower in followers))
    missed = sum(len(expected - set(follower.numbers)) for follower in followers)
    doubled = sum(len(follower.numbers) - len(set(follower.numbers)) for follower in followers)
    late = [
        pace.elapsed(_last_fault(left, back, faults), back)
        for follower in followers
        for left, back in follower.away
    ]
    slowest = max(late, default=0.0)
    updates = len(expected) * len(followers)
    return [
        Check("updates that sockets missed", f"{missed} of {updates}", not missed),
        Check("updates that sockets got twice", str(doubled), not doubled),
        Check(
            f"slowest return of a socket after its fault, of {len(late)}",
            f"{slowest:.1f} of {BACK_S:.0f} s",
            slowest <= BACK_S,
            timed=True,
        ),
    ]


def _last_fault(left: float, back: float, faults: list[Fault]) -> float:
    """Return when the last fault of a disconnection ended; `left`, its start, if none did."""
    return max([left, *(fault.end for fault in faults if left <= fault.end <= back)])


def _limits(clients: Clients, faults: list[Fault]) -> list[Check]:
    """Compare the generations admitted in each minute with the limit."""
    times = clients.log.generated
    losses = forgotten_counts(faults)
    most, worst, allowed = 0, 0, GENERATIONS
    for begun, _ in times:
        # Those that began after this one and ended within a minute of its beginning were all
        # counted in one minute.
        over = begun + MINUTE_S
        admitted = sum(start >= begun and end <= over for start, end in times)
        lost = sum(n for start, end, n in losses if start <= over and end >= begun)
        most = max(most, admitted)
        if admitted - (GENERATIONS + lost) > worst - allowed:
            worst, allowed = admitted, GENERATIONS + lost
    return [
        Check(
            "generations in the busiest minute; in the one nearest to what is allowed",
            f"{most}; {worst} of {allowed}",
            most > 0 and worst <= allowed,
        )
    ]


def forgotten_counts(faults: list[Fault]) -> list[tuple[float, float, int]]:
    """Return for each fault its start, its end, and how many counts the bus may have lost at most.

    Decision 003: a bus that lost its store counts from zero, and so does one whose disk is full,
    which keeps the counts in memory until it restarts; a killed one may lose its last count.
    """
    losses, in_memory = [], False
    for fault in sorted(faults, key=lambda fault: fault.start):
        lost = 0
        if fault.kind == "full":
            lost, in_memory = GENERATIONS, True
        elif fault.part == "nats" and fault.kind != "pause":
            last = 1 if fault.kind == "kill" else 0
            lost = GENERATIONS if fault.kind == "wipe" or in_memory else last
            in_memory = False
        losses.append((fault.start, fault.end, lost))
    return losses


def judge_readiness(clients: Clients, faults: list[Fault], pace: Pace) -> list[Check]:
    """Check the probes sent long enough after a fault, and those sent while the bus was lost."""
    wipes = [fault for fault in faults if fault.kind == "wipe"]
    calm, without_bus = [], []

    def settling(fault: Fault, at: float) -> bool:
        return fault.start <= at and (at <= fault.end or pace.elapsed(fault.end, at) <= READY_S)

    for at, name, status in clients.log.readiness:
        if not any(settling(fault, at) for fault in faults):
            calm.append((name, status))
        if any(
            wipe.start < at < wipe.undone and pace.elapsed(wipe.start, at) > READY_S
            for wipe in wipes
        ):
            without_bus.append((name, status))
    unready = [f"{name} {status}" for name, status in calm if status != 200]
    ready = [name for name, status in without_bus if status == 200]
    return [
        _probes(f"probes unready {READY_S:.0f} s after every fault", unready, len(calm)),
        _probes(
            f"probes ready {READY_S:.0f} s after the bus was lost",
            ready,
            len(without_bus),
            min(pace.share(wipe.start, wipe.undone) for wipe in wipes),
        )
        if wipes
        else Check("probes ready after the bus was lost", "not tried: the bus was not lost", True),
    ]


def _probes(name: str, wrong: list[str], judged: int, share: float = 1.0) -> Check:
    if not judged and share < MIN_SHARE:
        return Check(name, f"no probe was judged: {share:.2f} of a core was left", True)
    if not judged:
        return Check(name, "no probe was judged", False)
    return Check(name, f"{_first(wrong)}; {judged} probes judged", not wrong, timed=True)


def _first(items: list[str]) -> str:
    return f"{len(items)}, the first: {items[0]}" if items else "0"
