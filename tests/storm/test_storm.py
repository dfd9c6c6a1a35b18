"""The storm's choice of faults, its pace, and its checks of probes."""

import time
from types import SimpleNamespace
from typing import Any, cast

import pytest

from local.services import SERVICES
from storm.checks import READY_S, Check, forgotten_counts, judge_readiness
from storm.faults import Fault, Faults
from storm.pace import Pace

WIPE = Fault("wipe", "nats", 100.0, 110.0, 112.0)


def judged(
    *probes: tuple[float, int], faults: list[Fault], pace: Pace | None = None
) -> list[Check]:
    readiness = [(at, "gateway-1", status) for at, status in probes]
    clients = cast("Any", SimpleNamespace(log=SimpleNamespace(readiness=readiness)))
    return judge_readiness(clients, faults, pace or Pace())


def test_only_probes_long_enough_after_a_fault_are_checked() -> None:
    checks = judged((50, 200), (104, 200), (107, 503), (113, 503), (118, 200), faults=[WIPE])
    assert [check.figure for check in checks] == ["0; 2 probes judged", "0; 1 probes judged"]
    assert all(check.holds for check in checks)


@pytest.mark.parametrize(("probe", "line"), [((118, 503), 0), ((107, 200), 1)])
def test_a_replica_unready_for_long_or_ready_without_the_bus_fails_a_check(
    probe: tuple[float, int], line: int
) -> None:
    checks = judged((50, 200), (107, 503), probe, faults=[WIPE])
    assert [check.holds for check in checks] == [line != 0, line != 1]
    assert checks[line].figure == "1, the first: gateway-1" + (" 503" if not line else "") + (
        "; 2 probes judged"
    )


def test_a_check_without_probes_fails() -> None:
    checks = judged((104, 200), faults=[WIPE])
    assert [(check.figure, check.holds) for check in checks] == [("no probe was judged", False)] * 2


def test_time_limits_grow_on_a_slower_machine() -> None:
    pace = Pace()
    for tenth in range(900, 1_400):  # from the end of the fault on, half a core is left
        pace.note(tenth / 10, 0.004 if tenth < 1_120 else 0.008)
    assert pace.share(113, 120) == pytest.approx(0.5)
    assert pace.share(95, 100) == pytest.approx(1)
    late = (119, 503)
    assert not judged((95, 200), late, (125, 200), faults=[WIPE])[0].holds
    assert judged((95, 200), late, (125, 200), faults=[WIPE], pace=pace)[0].holds
    assert not judged((95, 200), late, (125, 503), faults=[WIPE], pace=pace)[0].holds
    for tenth in range(1_400, 1_600):
        pace.note(tenth / 10, 0.008)
    wipe = Fault("wipe", "nats", 145.0, 154.0, 155.0)
    line = judged((95, 200), (153, 200), faults=[wipe], pace=pace)[1]
    assert (line.figure, line.holds) == ("no probe was judged: 0.50 of a core was left", True)


def test_the_pace_is_measured_while_the_block_runs() -> None:
    with Pace() as pace:
        begin = time.monotonic()
        while not 0 < pace.share(begin, time.monotonic() + 60) < 1:
            time.sleep(0.1)


def test_a_storm_that_never_lost_the_bus_reports_the_check_of_a_lost_bus_as_not_tried() -> None:
    calm, lost = judged((50, 200), faults=[])
    assert calm.holds
    assert lost.holds
    assert lost.figure.startswith("not tried")


def test_a_restarted_bus_loses_only_counts_that_were_in_memory() -> None:
    kinds = [("restart", "nats"), ("kill", "nats"), ("pause", "nats"), ("kill", "gateway-1")]
    kinds += [("full", "postgres"), ("restart", "nats"), ("restart", "nats"), ("wipe", "nats")]
    faults = [
        Fault(kind, part, start, start + 1, start + 2) for start, (kind, part) in enumerate(kinds)
    ]
    assert [lost for _, _, lost in forgotten_counts(faults)] == [0, 1, 0, 0, 10, 10, 0, 10]


def test_simultaneous_faults_hit_different_parts_and_outlast_the_notice_of_a_lost_bus() -> None:
    pairs = 0
    for seed in range(200):
        faults = Faults(cast("Any", SimpleNamespace(services=SERVICES)), seed)
        hit, lasts_s = faults.draw()
        pairs += len(hit) == 2
        assert len({part for _, part in hit}) == len(hit)
        assert ("wipe", "nats") not in hit or lasts_s > READY_S + 2
        assert all(part == "nats" for kind, part in hit if kind == "wipe")
    assert pairs > 20
    assert max(faults.pause() for _ in range(100)) > READY_S + 2
