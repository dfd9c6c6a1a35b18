"""The schedule of retries: seven of them, the last about 27 hours after the first attempt."""

import random

MINUTE_S, HOUR_S = 60.0, 3600.0
# As in the example of Standard Webhooks 1.0 up to 5 hours, then shorter: about a day in all.
PAUSES_S = (
    5.0, 5 * MINUTE_S, 30 * MINUTE_S, 2 * HOUR_S, 5 * HOUR_S, 8 * HOUR_S, 11 * HOUR_S,
)  # fmt: skip
# Deliveries that failed together are not retried together.
JITTER = 0.1


def pause_s(attempts: int) -> float | None:
    """Return the seconds before the next attempt, or None after the last."""
    if attempts > len(PAUSES_S):
        return None
    return PAUSES_S[attempts - 1] * random.uniform(1, 1 + JITTER)  # noqa: S311  (no secret)
