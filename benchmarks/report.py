"""A benchmark's result: figures and their comparisons from the same run."""

import json
import os
import platform
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

from rich.console import Console
from rich.table import Table

RESULTS = Path(__file__).parent / "results"


@dataclass(frozen=True)
class Figure:
    """One measured value, in `unit`.

    `against` names a comparison measured in the same run: the same quantity, of
    a lower bound or of an alternative, with `against_value`. `aim` is the
    project's promise as text; `met` says whether this run kept it, None without
    a promise.
    """

    name: str
    value: float
    unit: str
    against: str = ""
    against_value: float | None = None
    aim: str = ""
    met: bool | None = None

    @property
    def ratio(self) -> float | None:
        return self.value / self.against_value if self.against_value else None


@dataclass
class Report:
    title: str
    figures: list[Figure] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def add(self, figure: Figure) -> None:
        self.figures.append(figure)

    def show(self, console: Console) -> None:
        table = Table(title=self.title, title_justify="left", title_style="bold")
        for column in ("", "measured", "against", "ratio", "aim"):
            table.add_column(column, justify="left" if column in {"", "aim"} else "right")
        for figure in self.figures:
            against = _number(figure.against_value) if figure.against_value else ""
            mark = {None: "", True: " [green]✓[/]", False: " [red]✗[/]"}[figure.met]
            table.add_row(
                figure.name,
                f"{_number(figure.value)} {figure.unit}",
                f"{figure.against} {against}".strip(),
                f"{figure.ratio:.2f}" if figure.ratio else "",
                figure.aim + mark,
            )
        console.print(table)
        for note in self.notes:
            console.print(f"[dim]{note}[/]", highlight=False)

    def save(self, name: str) -> Path:
        """Save the report under benchmarks/results, with the time and machine."""
        RESULTS.mkdir(exist_ok=True)
        path = RESULTS / f"{name}.json"
        content = {
            "title": self.title,
            "measured": datetime.now(UTC).isoformat(timespec="seconds"),
            "machine": machine(),
            "figures": [{**asdict(figure), "ratio": figure.ratio} for figure in self.figures],
            "notes": self.notes,
        }
        path.write_text(json.dumps(content, indent=1) + "\n")
        return path


Benchmark = Callable[[], Report]


def machine() -> dict[str, str | int | float]:
    model = "unknown"
    cpus = Path("/proc/cpuinfo")
    if cpus.exists():
        names = [line for line in cpus.read_text().splitlines() if line.startswith("model name")]
        model = names[0].partition(":")[2].strip() if names else model
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return {
        "processor": model,
        "cores": os.cpu_count() or 0,
        "memoryGiB": round(memory, 1),
        "system": platform.platform(terse=True),
        "python": platform.python_version(),
        "load": round(os.getloadavg()[0], 2),
    }


def figure(
    name: str,
    value: float,
    unit: str,
    *,
    at_least: float | None = None,
    at_most: float | None = None,
    against: tuple[str, float] = ("", 0.0),
    ratio_at_least: float | None = None,
) -> Figure:
    """Return a figure with the bound that it must meet, if there is one."""
    ratio = value / against[1] if against[1] else 0.0
    promises: list[tuple[Literal["at least", "at most"], str, bool]] = []
    if at_least is not None:
        promises.append(("at least", f"{_number(at_least)} {unit}", value >= at_least))
    if at_most is not None:
        promises.append(("at most", f"{_number(at_most)} {unit}", value <= at_most))
    if ratio_at_least is not None:
        promises.append(("at least", f"{ratio_at_least:g} x", ratio >= ratio_at_least))
    return Figure(
        name,
        value,
        unit,
        against[0],
        against[1] or None,
        "; ".join(f"{how} {bound}" for how, bound, _ in promises),
        all(kept for *_, kept in promises) if promises else None,
    )


def _number(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:,.3g}"
