"""The search for a wave of any period, such as that of a job every ten hours.

A periodogram proposes periods; a sine and its harmonics are fitted to each by Gauss and Newton
(Bloomfield, "Fourier Analysis of Time Series", chapter 2), without the values that are far from it.
A wave counts only if it explains most of what varies, so that noise is no wave.
"""

import math

import numpy as np

from metrics.arrays import Floats
from metrics.shape.cells import MEDIAN_DEVIATION, Ints, median, without_level

# Shorter periods are averaged out within a cell. Neighbours in a longer one are correlated, so that
# most noise takes little time.
MIN_PERIOD, MIN_CORRELATION = 5.0, 0.2
# A wave is seen at least this often; one that is seen less than four times could be incidents.
MIN_PERIODS, MANY_PERIODS = 2.0, 4.0
# Fewer values, or a greater share of gaps, show no wave.
MIN_VALUES, MAX_MISSING = 20, 0.2
# A wave explains at least this share of the variance of at least this share of the values;
# incidents that come and go explain up to 0.81.
MIN_EXPLAINED, MIN_EXPLAINED_OF_FEW, MIN_KEPT = 0.8, 0.92, 0.75
# A wave below this share of the greatest distance from the middle would change nothing.
MIN_AMPLITUDE = 0.01
# A peak of the periodogram below this share of its power is not fitted, which saves its time.
MIN_PEAK = 0.4
# Values this far from the wave, in deviations, are not fitted.
FAR = 4.0
OUTLIER_DEVIATIONS = 3.0
HARMONICS = 2
ROUNDS = 5
PADDED = 4


def find(numbers: Ints, values: Floats, min_periods: float = MIN_PERIODS) -> Floats | None:
    """Find the wave of values in numbered cells; None if none explains most of them."""
    places = (numbers - numbers[0]).astype(np.float64)
    count = int(places[-1]) + 1
    if len(values) < MIN_VALUES or len(values) < (1 - MAX_MISSING) * count:
        return None
    filled = np.interp(np.arange(count), places, values)
    clipped = _clipped(filled)
    if clipped[1:] @ clipped[:-1] < MIN_CORRELATION * (clipped @ clipped):
        return None
    # The clipped steps of a series are without its level changes.
    unmoved = np.concatenate([[0.0], np.cumsum(_clipped(np.diff(filled)))])
    best: tuple[float, Floats] | None = None
    for level in (clipped, unmoved):
        period = _period(level, min_periods)
        if period is None:
            continue
        least = MIN_EXPLAINED if count >= MANY_PERIODS * period else MIN_EXPLAINED_OF_FEW
        # Few periods do not show a local level.
        for around in (values, without_level(filled, round(period))[numbers - numbers[0]]):
            explained, wave = _fit(places, around, math.tau / period, min_periods)
            if explained >= least and (best is None or explained > best[0]):
                best = explained, wave
    least = MIN_AMPLITUDE * np.abs(filled - median(filled)).max()
    return best[1] if best is not None and np.abs(best[1]).max() > least else None


def _clipped(values: Floats) -> Floats:
    middle = median(values)
    far = OUTLIER_DEVIATIONS * median(np.abs(values - middle)) / MEDIAN_DEVIATION
    return np.clip(values - middle, -far, far)


def _period(values: Floats, min_periods: float) -> float | None:
    """Return the strongest period of values; None if it is weak."""
    count = len(values)
    times = np.arange(count) - (count - 1) / 2
    values = values - values.mean() - times * (times @ values) / (times @ times)
    size = PADDED << count.bit_length()
    power = np.abs(np.fft.rfft(values * np.hanning(count), size)) ** 2
    total = power[1:].sum()
    first, last = math.ceil(min_periods * size / count), int(size / MIN_PERIOD)
    if last <= first or total <= 0:
        return None
    peak = first + int(np.argmax(power[first:last]))
    # All of a sine's power is within two frequencies of a window's width.
    reach = 2 * size // count
    if power[max(peak - reach, 1) : peak + reach + 1].sum() < MIN_PEAK * total:
        return None
    return size / peak


def _fit(
    places: Floats, values: Floats, frequency: float, min_periods: float
) -> tuple[float, Floats]:
    """Fit a wave near a frequency; return the share of the variance that it explains."""
    middle = places.mean()
    times = places - middle
    kept = np.abs(values - median(values)) <= np.abs(_clipped(values)).max()
    part = np.zeros(len(values))
    orders = np.arange(1, HARMONICS + 1)
    for _ in range(ROUNDS):
        angles = np.outer(orders, times) * frequency
        waves = np.concatenate([np.cos(angles), np.sin(angles)])
        columns = np.concatenate([np.ones((1, len(times))), waves])
        fitted, *_ = np.linalg.lstsq(columns[:, kept].T, values[kept], rcond=None)
        part = fitted[1:] @ waves
        rest = values - fitted @ columns
        spread = median(np.abs(rest[kept])) / MEDIAN_DEVIATION
        kept = np.abs(rest) <= FAR * max(spread, 1e-12)
        # By how much another frequency would explain the rest better.
        cosines, sines = fitted[1 : HARMONICS + 1], fitted[HARMONICS + 1 :]
        slope = times * (orders * sines @ np.cos(angles) - orders * cosines @ np.sin(angles))
        square = float(slope[kept] @ slope[kept])
        if square > 0:
            frequency += float(slope[kept] @ rest[kept]) / square
    # A part of a longer wave could be a slope as well.
    seen = abs(frequency) * (places[-1] + 1) / math.tau
    if kept.mean() < MIN_KEPT or seen < 0.9 * min_periods:
        return 0.0, part
    whole = values[kept] - values[kept].mean()
    variance = float(whole @ whole)
    explained = 1 - float(rest[kept] @ rest[kept]) / variance if variance > 0 else 0.0
    return explained, part
