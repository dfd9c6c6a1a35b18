from hypothesis import given
from hypothesis import strategies as st

from realtime.mailbox import CAPACITY_BYTES, Mailbox
from realtime.update import Update

UPDATES = st.lists(
    st.tuples(st.sampled_from("xyz"), st.frozensets(st.sampled_from("abc"), min_size=1)),
    max_size=60,
)


def update(topic: str, series: frozenset[str], number: int) -> Update:
    made = Update(
        "metric_update", {"metrics": dict.fromkeys(sorted(series), number)}, topic, series
    )
    made.number = number  # type: ignore[attr-defined]
    return made


def drain(mailbox: Mailbox) -> list[Update]:
    taken = []
    while mailbox:
        taken += mailbox.take()
    assert mailbox.size_bytes == 0
    return taken


@given(UPDATES)
def test_the_newest_value_of_every_series_arrives_last(wishes):
    mailbox, newest = Mailbox(), {}
    for number, (topic, series) in enumerate(wishes):
        mailbox.put(update(topic, series, number))
        newest |= {(topic, one): number for one in series}
    seen = {}
    for one in drain(mailbox):
        seen |= {(one.topic, series): one.number for series in one.series}
    assert seen == newest


@given(UPDATES)
def test_one_update_waits_per_selection_of_series(wishes):
    mailbox = Mailbox()
    for number, (topic, series) in enumerate(wishes):
        mailbox.put(update(topic, series, number))
    waiting = [(one.topic, one.series) for ones in mailbox.latest.values() for one in ones]
    assert len(waiting) == len(set(waiting))
    assert mailbox.size_bytes == sum(len(o.text) for ones in mailbox.latest.values() for o in ones)


def test_alerts_are_never_dropped_and_overtake_metrics():
    mailbox = Mailbox()
    for number in range(500):
        mailbox.put(update("x", frozenset("a"), number))
        if number % 100 == 0:
            mailbox.put_guaranteed(Update("alert", number))
    texts = [one.text for one in drain(mailbox)]
    assert texts[:-1] == [Update("alert", number).text for number in range(0, 500, 100)]
    assert b"499" in texts[-1]


def test_a_busy_topic_starves_no_other():
    mailbox = Mailbox()
    for topic in range(100):
        mailbox.put(update(f"t{topic}", frozenset("a"), 0))
    taken = set()
    for number in range(20):
        mailbox.put(update("t0", frozenset("a"), number))
        taken |= {one.topic for one in mailbox.take()}
    assert len(taken) == 100


def test_an_overflow_is_reported():
    mailbox = Mailbox()
    large = Update("alert", "x" * (CAPACITY_BYTES // 2))
    assert mailbox.put_guaranteed(large)
    assert not mailbox.put_guaranteed(large)


def test_a_frame_equals_the_websocket_librarys():
    from websockets.server import ServerProtocol  # noqa: PLC0415

    for size in (0, 90, 120, 130, 65_000, 70_000):
        protocol = ServerProtocol()
        protocol.state = protocol.state.OPEN
        one = Update("x", "y" * size)
        protocol.send_text(one.text)
        assert b"".join(protocol.data_to_send()) == one.frame


def test_a_gap_notice_follows_every_update_before_it():
    mailbox = Mailbox()
    heard = [update(topic, frozenset("a"), number) for number, topic in enumerate("xyz")]
    for one in heard:
        mailbox.put(one)
    gap = Update("gap", {"since": "2026-01-31T12:00:00Z"})
    mailbox.put_guaranteed(gap, None)
    assert drain(mailbox) == [*heard, gap]
