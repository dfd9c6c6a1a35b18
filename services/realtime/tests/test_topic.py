"""Updates that a client counts as received."""

from common.contracts.history import Position
from realtime.topic import Subscriber

# Arrivals of writer 7, of which the lowest byte is the writer's number.
BEFORE, BEGIN, SENT, LATER = (0x100 * n + 7 for n in range(1, 5))
AT = 1_000_000


def test_only_what_a_replay_sent_is_not_replayed_again() -> None:
    subscriber = Subscriber(None, 0)
    assert not subscriber.was_replayed(SENT, AT, after_gap=True)
    subscriber.replayed = {7: (SENT, AT)}
    subscriber.replayed_from = Position(floor=0, alerted=0, places=[(BEGIN, AT)])
    arrivals = (BEFORE, BEGIN, SENT, LATER, SENT + 1)  # the last one is another writer's
    sent = [subscriber.was_replayed(arrival, AT, after_gap=False) for arrival in arrivals]
    assert sent == [False, False, True, False, False]


def test_after_a_gap_what_a_client_had_before_its_replay_is_not_sent() -> None:
    subscriber = Subscriber(None, 0)
    subscriber.replayed = {7: (SENT, AT)}
    subscriber.replayed_from = Position(floor=0, alerted=0, places=[(BEGIN, AT)])
    arrivals = (BEFORE, BEGIN, SENT, LATER, SENT + 1)
    received = [subscriber.was_replayed(arrival, AT, after_gap=True) for arrival in arrivals]
    assert received == [True, True, True, False, False]
