"""Small drawings of measured figures, as SVG for pages of documentation."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

WIDTH, HEIGHT, LEFT, BOTTOM, TOP = 760, 420, 70, 60, 90
COLORS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00")


@dataclass(frozen=True)
class Point:
    """A data point: its series, label and coordinates."""

    series: str
    label: str
    x: float
    y: float


def scatter(points: Sequence[Point], *, title: str, x: str, y: str) -> str:
    """Draw points by series, on a vertical logarithmic axis; return the SVG."""
    names = list(dict.fromkeys(point.series for point in points))
    across = _Linear([point.x for point in points], LEFT, WIDTH - 40)
    up = _Logarithmic([point.y for point in points], HEIGHT - BOTTOM, TOP)
    middle = (TOP + HEIGHT - BOTTOM) / 2
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" role="img">',
        '<g font-family="sans-serif" font-size="12">',
        f"<title>{escape(title)}</title>",
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="white"/>',
        f'<text x="{LEFT}" y="20" font-size="15">{escape(title)}</text>',
        f'<text x="{(LEFT + WIDTH) / 2}" y="{HEIGHT - 15}" text-anchor="middle">{escape(x)}</text>',
        f'<text transform="translate(18 {middle}) rotate(-90)">{escape(y)}</text>',
    ]
    for value in across.ticks():
        at = across.place(value)
        lines.append(
            f'<path d="M{at:.1f} {TOP}V{HEIGHT - BOTTOM}" stroke="#ddd"/>'
            f'<text x="{at:.1f}" y="{HEIGHT - BOTTOM + 18}" text-anchor="middle">{value:g}</text>'
        )
    for value in up.ticks():
        at = up.place(value)
        lines.append(
            f'<path d="M{LEFT} {at:.1f}H{WIDTH - 40}" stroke="#ddd"/>'
            f'<text x="{LEFT - 6}" y="{at + 4:.1f}" text-anchor="end">{value:g}</text>'
        )
    for number, name in enumerate(names):
        color = COLORS[number % len(COLORS)]
        at = [p for p in points if p.series == name]
        path = " ".join(f"{across.place(p.x):.1f},{up.place(p.y):.1f}" for p in at)
        lines.append(f'<polyline points="{path}" fill="none" stroke="{color}" opacity="0.4"/>')
        for p in at:
            left, top = across.place(p.x), up.place(p.y)
            lines.append(
                f'<circle cx="{left:.1f}" cy="{top:.1f}" r="5" fill="{color}"/>'
                f'<text x="{left + 8:.1f}" y="{top - 6:.1f}">{escape(p.label)}</text>'
            )
        left, top = LEFT + number % 2 * 340, 44 + number // 2 * 20
        lines.append(
            f'<circle cx="{left + 5}" cy="{top - 4}" r="5" fill="{color}"/>'
            f'<text x="{left + 16}" y="{top}">{escape(name)}</text>'
        )
    return "\n".join([*lines, "</g>", "</svg>", ""])


class _Linear:
    """An axis from 0 to the greatest value, in pixels from `begin` to `end`."""

    def __init__(self, values: Sequence[float], begin: float, end: float) -> None:
        self.high = math.ceil(max(*values, 1e-9))
        self.begin, self.end = begin, end

    def place(self, value: float) -> float:
        return self.begin + value / self.high * (self.end - self.begin)

    def ticks(self) -> list[float]:
        return [float(value) for value in range(self.high + 1)]


class _Logarithmic:
    """An axis of whole powers of ten around positive values, in pixels from `begin` to `end`."""

    def __init__(self, values: Sequence[float], begin: float, end: float) -> None:
        self.low = math.floor(math.log10(min(values)))
        self.high = math.ceil(math.log10(max(values)))
        self.begin, self.end = begin, end

    def place(self, value: float) -> float:
        share = (math.log10(value) - self.low) / max(self.high - self.low, 1)
        return self.begin + share * (self.end - self.begin)

    def ticks(self) -> list[float]:
        return [10.0**power for power in range(self.low, self.high + 1)]
