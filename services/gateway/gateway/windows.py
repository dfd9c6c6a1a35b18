"""Windows of rate limits: requests per slot, as the digits of one integer."""

from collections.abc import Sequence
from dataclasses import dataclass, field

# Slots of a window, and of an epoch. A longer epoch would read the previous one's counter less
# often, and write longer integers: reading one of 350 decimal digits takes Python 5 microseconds.
SLOTS, EPOCH_SLOTS = 20, 24
# Replicas' clocks differ by less than this; no slot is shorter.
SKEW_S = 0.5
# Policies that one counter holds.
PLACES = 2
DIGIT_BITS = 24
SLOT_BITS = PLACES * DIGIT_BITS
# Added before digits are read, so that a negative digit (a request given back to a server that had
# lost its memory) borrows nothing from its neighbour.
BIAS_OF_DIGIT = 1 << 10
BIAS_OF_SLOT = sum(BIAS_OF_DIGIT << place * DIGIT_BITS for place in range(PLACES))
BIAS = sum(BIAS_OF_SLOT << slot * SLOT_BITS for slot in range(EPOCH_SLOTS))
DIGIT = (1 << DIGIT_BITS) - 1
DIGITS_OF_PLACE = [
    sum(DIGIT << slot * SLOT_BITS + place * DIGIT_BITS for slot in range(EPOCH_SLOTS))
    for place in range(PLACES)
]


@dataclass(frozen=True)
class Policy:
    """`limit` requests in any `window` seconds (10 or more).

    Attributes:
        costly: requests are refused while they cannot be counted.
        shared_with: the policy whose counter this one shares; requests that count
            against both take one message.
    """

    name: str
    limit: int
    window: int = 60
    costly: bool = False
    shared_with: str = ""

    @property
    def stream(self) -> str:
        return f"LIMITS_{self.window}"

    @property
    def counter(self) -> str:
        return self.shared_with or self.name

    @property
    def place(self) -> int:
        """The policy's digit in each slot of the counter."""
        return 1 if self.shared_with else 0

    def slot(self, now: float) -> int:
        return int(now * SLOTS / self.window)

    def begin(self, slot: int) -> float:
        """Start of a slot, in seconds since 1970."""
        return slot * self.window / SLOTS

    def forgotten(self, slot: int) -> float:
        """Time at which a request of the slot stops counting, in seconds since 1970."""
        return self.begin(slot + SLOTS + 1) + SKEW_S


@dataclass(frozen=True, slots=True)
class Window:
    """The counted requests of a window, as in one reply of the server.

    Attributes:
        first: the oldest slot that counts.
        values: the counters of the epochs that matter, by epoch, oldest first.
        totals: the requests that count, by place.
    """

    slot: int
    first: int
    values: tuple[tuple[int, int], ...]
    totals: list[int] = field(init=False, default_factory=lambda: [0] * PLACES)

    def __post_init__(self) -> None:
        for epoch, value in self.values:
            skipped = max(self.first - epoch * EPOCH_SLOTS, 0)
            bias = (EPOCH_SLOTS - skipped) * BIAS_OF_DIGIT
            # The sum of a number's digits, in its base, is its remainder by one less.
            added = (value + BIAS >> skipped * SLOT_BITS) % ((1 << SLOT_BITS) - 1)
            for place in range(PLACES):
                self.totals[place] += (added >> place * DIGIT_BITS & DIGIT) - bias

    def oldest(self, place: int) -> int:
        """Return the oldest slot with requests that count; the window's slot if there is none."""
        for epoch, value in self.values:
            skipped = max(self.first - epoch * EPOCH_SLOTS, 0)
            digits = value >> skipped * SLOT_BITS & DIGITS_OF_PLACE[place]
            if digits:
                lowest = (digits & -digits).bit_length() - 1
                return epoch * EPOCH_SLOTS + skipped + lowest // SLOT_BITS
        return self.slot

    def slots(self, place: int) -> dict[int, int]:
        """Return the requests of each slot that counts, oldest first."""
        return {
            epoch * EPOCH_SLOTS + index: (
                value + BIAS >> index * SLOT_BITS + place * DIGIT_BITS & DIGIT
            )
            - BIAS_OF_DIGIT
            for epoch, value in self.values
            for index in range(max(self.first - epoch * EPOCH_SLOTS, 0), EPOCH_SLOTS)
        }


@dataclass(frozen=True, slots=True)
class Count:
    """One request's count: the window, and how many requests of its batch come after it."""

    window: Window
    later: tuple[int, ...]

    def used(self, place: int) -> int:
        """Return how many requests count against the policy, up to and including this one."""
        return self.window.totals[place] - self.later[place]


def first_slot(policy: Policy, slot: int, now: float) -> int:
    """Return the oldest time slot whose requests still count."""
    return slot - SLOTS - (now < policy.begin(slot) + SKEW_S)


def amount_of(slot: int, places: Sequence[int]) -> int:
    """Return the amount that adds one request in the slot to a counter, at each policy's place."""
    slot_amount = sum([1 << place * DIGIT_BITS for place in places])
    return slot_amount << slot % EPOCH_SLOTS * SLOT_BITS
