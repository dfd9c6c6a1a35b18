"""A chart of the advice benchmark: bars of this project next to two libraries, as SVG."""

import re
from html import escape
from pathlib import Path

from benchmarks.report import Report

PATH = Path(__file__).parents[1] / "docs" / "reference" / "advice.svg"
# `step, 45 series: found by ADTK`, as advice.compare names its figures.
NAME = re.compile(
    r"(?P<kind>[^,]+), (?P<count>\d+) series: (?P<what>found|false statements) by (?P<who>.+)"
)
COLORS = ("#1f6f8b", "#e0a458", "#8d8d8d")
TITLES = {"found": "Changes found, with their times (more is better)",
          "false statements": "Series with a false statement (less is better)"}  # fmt: skip
WIDTH, LEFT, RIGHT, BAR, GAP = 760, 190, 60, 9, 10


def draw(report: Report, path: Path = PATH) -> None:
    """Draw the comparison, if the report has one."""
    bars: dict[str, dict[str, dict[str, float]]] = {what: {} for what in TITLES}
    count = ""
    for figure in report.figures:
        if match := NAME.fullmatch(figure.name):
            count = match["count"]
            bars[match["what"]].setdefault(match["kind"], {})[match["who"]] = figure.value
    if not count:
        return
    names = list(
        dict.fromkeys(who for kinds in bars.values() for of in kinds.values() for who in of)
    )
    parts: list[str] = []
    y = 24
    for number, name in enumerate(names):
        x = 14 + number * 230
        parts.append(f'<rect x="{x}" y="{y - 10}" width="12" height="12" fill="{COLORS[number]}"/>')
        parts.append(_text(x + 18, y, name))
    y += 30
    for what, kinds in bars.items():
        parts.append(_text(14, y, f"{TITLES[what]}, of {count} each", weight="bold"))
        y += 12
        for kind, of in kinds.items():
            parts.append(_text(LEFT - 8, y + (BAR + 1) * len(of) // 2 + 4, kind, anchor="end"))
            for number, name in enumerate(names):
                long = max((WIDTH - LEFT - RIGHT) * of.get(name, 0.0) / 100, 1)
                parts.append(f'<rect x="{LEFT}" y="{y}" width="{long:.0f}" height="{BAR}"'
                             f' fill="{COLORS[number]}"/>')  # fmt: skip
                parts.append(_text(LEFT + long + 5, y + BAR - 1, f"{of.get(name, 0.0):.0f} %", 9))
                y += BAR + 1
            y += GAP
        y += 18
    path.write_text(
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {y}" width="{WIDTH}"'
        f' height="{y}" font-family="sans-serif" role="img">\n'
        "<title>Advice of this project and of two libraries, held against known series</title>\n"
        f'<rect width="{WIDTH}" height="{y}" fill="#fff"/>\n' + "\n".join(parts) + "\n</svg>\n"
    )


def _text(
    x: float, y: float, text: str, size: int = 12, anchor: str = "start", weight: str = "normal"
) -> str:
    return (
        f'<text x="{x:.0f}" y="{y:.0f}" font-size="{size}" text-anchor="{anchor}"'
        f' font-weight="{weight}" fill="#222">{escape(text)}</text>'
    )
