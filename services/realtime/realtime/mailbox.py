"""A bounded mailbox of one client, in which newer values replace older ones.

There are two compartments. Guaranteed updates (alerts, replayed samples, a farewell)
stay in order until they are delivered. Among all others the latest wins: an update that
has a value for every series of a waiting one replaces it. The backlog is therefore
bounded by the number of series, not by how long the client does not read.
"""

from realtime.update import Update

# With a transport's 64 KiB and the kernel's buffers (see __main__), a client that
# does not read costs less than 1 MiB.
CAPACITY_BYTES = 384 * 1024
# Updates delivered at once: few enough for a browser, which gets 60 such batches a second.
MAX_BATCH_UPDATES = 16
# Guaranteed updates delivered at once, in bytes.
MAX_BATCH_BYTES = 64 * 1024


class Mailbox:
    __slots__ = ("guaranteed", "latest", "replaced", "size_bytes")

    def __init__(self) -> None:
        self.guaranteed: list[Update] = []
        self.latest: dict[str, list[Update]] = {}
        self.size_bytes = 0
        self.replaced = 0

    def __bool__(self) -> bool:
        return self.size_bytes > 0

    def put_guaranteed(self, update: Update, after: str | None = "") -> bool:
        """Add an update that must not be dropped; return False if the mailbox overflows.

        It overtakes the updates that wait, except those of the topic `after` (None: of
        every topic), which become guaranteed as well.
        """
        for topic in list(self.latest) if after is None else [after]:
            self.guaranteed += self.latest.pop(topic, ())
        self.guaranteed.append(update)
        self.size_bytes += len(update.text)
        return self.size_bytes <= CAPACITY_BYTES

    def put(self, update: Update) -> bool:
        """Add an update, which newer ones may replace; return False if the mailbox overflows.

        A topic keeps its place in the queue, so a busy topic does not starve, and the
        updates that remain within a topic keep their order of arrival.
        """
        waiting = self.latest.get(update.topic)
        if waiting is None:
            self.latest[update.topic] = [update]
        else:
            left = [held for held in waiting if not held.series <= update.series]
            self.replaced += len(waiting) - len(left)
            self.size_bytes -= _size_bytes(waiting) - _size_bytes(left)
            self.latest[update.topic] = [*left, update]
        self.size_bytes += len(update.text)
        return self.size_bytes <= CAPACITY_BYTES

    def take(self, max_guaranteed: int | None = None) -> list[Update]:
        """Remove and return the next batch, with at most `max_guaranteed` guaranteed updates."""
        batch: list[Update] = []
        size = 0
        for update in self.guaranteed[:max_guaranteed]:
            if size and size + len(update.text) > MAX_BATCH_BYTES:
                break
            batch.append(update)
            size += len(update.text)
        del self.guaranteed[: len(batch)]
        if not self.guaranteed:
            while self.latest and len(batch) < MAX_BATCH_UPDATES:
                updates = self.latest.pop(next(iter(self.latest)))
                batch += updates
                size += _size_bytes(updates)
        self.size_bytes -= size
        return batch

    def clear(self) -> None:
        self.guaranteed.clear()
        self.latest.clear()
        self.size_bytes = 0


def _size_bytes(updates: list[Update]) -> int:
    return sum(len(update.text) for update in updates)
