from hypothesis import given
from hypothesis import strategies as st

from realtime.mailbox import CAPACITY, Mailbox
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
    assert mailbox.size == 0
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
def test_of_one_selection_of_series_only_one_waits(wishes):
    mailbox = Mailbox()
    for number, (topic, series) in enumerate(wishes):
        mailbox.put(update(topic, series, number))
    waiting = [(one.topic, one.series) for ones in mailbox.latest.values() for one in ones]
    assert len(waiting) == len(set(waiting))
    assert mailbox.size == sum(len(o.text) for ones in mailbox.latest.values() for o in ones)


def test_alerts_stay_and_go_first_whatever_metrics_do():
    mailbox = Mailbox()
    for number in range(500):
        mailbox.put(update("x", frozenset("a"), number))
        if number % 100 == 0:
            mailbox.keep(Update("alert", number))
    texts = [one.text for one in drain(mailbox)]
    assert texts[:-1] == [Update("alert", number).text for number in range(0, 500, 100)]
    assert b"499" in texts[-1]


def test_a_busy_topic_does_not_keep_others_waiting():
    mailbox = Mailbox()
    for topic in range(100):
        mailbox.put(update(f"t{topic}", frozenset("a"), 0))
    taken = set()
    for number in range(20):
        mailbox.put(update("t0", frozenset("a"), number))
        taken |= {one.topic for one in mailbox.take()}
    assert len(taken) == 100


def test_what_does_not_fit_is_said():
    mailbox = Mailbox()
    large = Update("alert", "x" * (CAPACITY // 2))
    assert mailbox.keep(large)
    assert not mailbox.keep(large)


def test_the_frame_is_what_a_websocket_library_would_write():
    from websockets.server import ServerProtocol  # noqa: PLC0415

    for size in (0, 90, 120, 130, 65_000, 70_000):
        protocol = ServerProtocol()
        protocol.state = protocol.state.OPEN
        one = Update("x", "y" * size)
        protocol.send_text(one.text)
        assert b"".join(protocol.data_to_send()) == one.frame


def test_what_says_that_something_was_lost_comes_after_all_that_was_heard_before():
    mailbox = Mailbox()
    heard = [update(topic, frozenset("a"), number) for number, topic in enumerate("xyz")]
    for one in heard:
        mailbox.put(one)
    gap = Update("gap", {"since": "2026-01-31T12:00:00Z"})
    mailbox.keep(gap, None)
    assert drain(mailbox) == [*heard, gap]
