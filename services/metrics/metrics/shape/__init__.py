"""The shape of a series: level, slope, seasons, steps, temporary incidents, and noise.

`describe` finds it in the cells of a history, `sharpen` places its edges to the sample.
"""

from metrics.shape.edges import needed, sharpen
from metrics.shape.shape import Event, Shape, describe

__all__ = ["Event", "Shape", "describe", "needed", "sharpen"]
