from hypothesis import given
from hypothesis import strategies as st

from realtime.mailbox import CAPACITY_BYTES, Mailbox
from realtime.update import Update

UPDATES = st.lists(
    st.tuples(st.sampled_from("xyz"), st.frozensets(st.sampled_from("abc"), min_size=1)),
    max_size=60,
)


def update(topic: str, series: frozenset[str], number: int) -> Update:
    update = Update(
        "metric_update", {"metrics": dict.fromkeys(sorted(series), number)}, topic, series
    )
    update.number = number  # type: ignore[attr-defined]
    return update


def drain(mailbox: Mailbox) -> list[Update]:
    updates = []
    while mailbox:
        updates += mailbox.take()
    assert mailbox.size_bytes == 0
    return updates


@given(UPDATES)
def test_the_newest_value_of_every_series_is_delivered_last(selections):
    mailbox, newest = Mailbox(), {}
    for number, (topic, series) in enumerate(selections):
        mailbox.put(update(topic, series, number))
        newest |= {(topic, received): number for received in series}
    seen = {}
    for received in drain(mailbox):
        seen |= {(received.topic, series): received.number for series in received.series}
    assert seen == newest


@given(UPDATES)
def test_at_most_one_update_waits_for_each_topic_and_set_of_series(selections):
    mailbox = Mailbox()
    for number, (topic, series) in enumerate(selections):
        mailbox.put(update(topic, series, number))
    waiting = [(held.topic, held.series) for ones in mailbox.latest.values() for held in ones]
    assert len(waiting) == len(set(waiting))
    assert mailbox.size_bytes == sum(len(o.text) for ones in mailbox.latest.values() for o in ones)


def test_alerts_are_never_dropped_and_overtake_metrics():
    mailbox = Mailbox()
    for number in range(500):
        mailbox.put(update("x", frozenset("a"), number))
        if number % 100 == 0:
            mailbox.put_guaranteed(Update("alert", number))
    texts = [received.text for received in drain(mailbox)]
    assert texts[:-1] == [Update("alert", number).text for number in range(0, 500, 100)]
    assert b"499" in texts[-1]


def test_a_busy_topic_does_not_delay_another_topic():
    mailbox = Mailbox()
    for topic in range(100):
        mailbox.put(update(f"t{topic}", frozenset("a"), 0))
    topics = set()
    for number in range(20):
        mailbox.put(update("t0", frozenset("a"), number))
        topics |= {received.topic for received in mailbox.take()}
    assert len(topics) == 100


def test_a_full_mailbox_reports_its_overflow():
    mailbox = Mailbox()
    large = Update("alert", "x" * (CAPACITY_BYTES // 2))
    assert mailbox.put_guaranteed(large)
    assert not mailbox.put_guaranteed(large)


def test_an_updates_frame_equals_that_of_the_websocket_library():
    from websockets.server import ServerProtocol  # noqa: PLC0415

    for size in (0, 90, 120, 130, 65_000, 70_000):
        protocol = ServerProtocol()
        protocol.state = protocol.state.OPEN
        sent = Update("x", "y" * size)
        protocol.send_text(sent.text)
        assert b"".join(protocol.data_to_send()) == sent.frame


def test_a_gap_notice_is_delivered_after_all_earlier_updates():
    mailbox = Mailbox()
    updates = [update(topic, frozenset("a"), number) for number, topic in enumerate("xyz")]
    for received in updates:
        mailbox.put(received)
    gap = Update("gap", {"since": "2026-01-31T12:00:00Z"})
    mailbox.put_guaranteed(gap, None)
    assert drain(mailbox) == [*updates, gap]
