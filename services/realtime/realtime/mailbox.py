"""What waits for one client: bounded, and of each series only the newest value.

Two compartments. What must arrive (alerts, what was missed, a farewell) is
kept in order. Of updates the latest wins: one that has a value of every
series of a waiting one takes its place, so that what waits is bounded by the
number of series and not by how long the client does not read.
"""

from realtime.update import Update

# Bytes that may wait. With a transport's 64 KiB and the kernel's buffers
# (see __main__) a client that does not read costs less than 1 MiB.
CAPACITY = 384 * 1024
# What is handed over at once: updates, so that a browser can keep up (60 times
# as many a second), and bytes of what is kept.
UPDATES_AT_ONCE = 16
BYTES_AT_ONCE = 64 * 1024


class Mailbox:
    __slots__ = ("kept", "latest", "replaced", "size")

    def __init__(self) -> None:
        self.kept: list[Update] = []
        self.latest: dict[str, list[Update]] = {}
        self.size = 0
        self.replaced = 0

    def __bool__(self) -> bool:
        return self.size > 0

    def keep(self, update: Update, after: str | None = "") -> bool:
        """Hold until it can be delivered; False if the mailbox overflows.

        Goes before updates that wait, but for those of the topic `after`
        (None: of all topics), which are kept from then on as well.
        """
        for topic in list(self.latest) if after is None else [after]:
            self.kept += self.latest.pop(topic, ())
        self.kept.append(update)
        self.size += len(update.text)
        return self.size <= CAPACITY

    def put(self, update: Update) -> bool:
        """Hold until delivered or outdated; False if the mailbox overflows.

        A topic keeps its place in the queue, so a busy one does not starve; and
        within a topic the order of what is left is the order of arrival.
        """
        waiting = self.latest.get(update.topic)
        if waiting is None:
            self.latest[update.topic] = [update]
        else:
            left = [one for one in waiting if not one.series <= update.series]
            self.replaced += len(waiting) - len(left)
            self.size -= sum(len(one.text) for one in waiting) - sum(len(o.text) for o in left)
            self.latest[update.topic] = [*left, update]
        self.size += len(update.text)
        return self.size <= CAPACITY

    def take(self) -> list[Update]:
        """The next ones to deliver, at most what goes at once."""
        taken: list[Update] = []
        size = 0
        for update in self.kept:
            if size and size + len(update.text) > BYTES_AT_ONCE:
                break
            taken.append(update)
            size += len(update.text)
        del self.kept[: len(taken)]
        if not self.kept:
            while self.latest and len(taken) < UPDATES_AT_ONCE:
                updates = self.latest.pop(next(iter(self.latest)))
                taken += updates
                size += sum(len(update.text) for update in updates)
        self.size -= size
        return taken

    def clear(self) -> None:
        self.kept.clear()
        self.latest.clear()
        self.size = 0
