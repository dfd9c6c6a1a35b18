"""`python -m benchmarks [name ...]`: measure, print side by side, save under benchmarks/results.

Fails where a figure missed its aim; it is kept all the same.
"""

import importlib
import sys

from rich.console import Console

from benchmarks.report import Report, machine

# In the order in which a request passes the parts. Each module has `measure() -> Report`.
NAMES = (
    "runtime",
    "gateway",
    "gateway_keys",
    "gateway_limits",
    "gateway_overload",
    "tracing",
    "generation",
    "modules_memory",
    "realtime",
    "realtime_faults",
    "benchmarking",
    "benchmarking_memory",
    "benchmarking_beside",
    "monitoring",
    "backfill",
    "advice",
    "pages",
    "clients",
    "simulate",
)
# Only when named: needs a CUDA device.
ON_REQUEST = ("benchmarking_gpu",)


def main(arguments: list[str]) -> int:
    console = Console()
    names = arguments or list(NAMES)
    if unknown := set(names) - {*NAMES, *ON_REQUEST}:
        console.print(f"no benchmark {', '.join(sorted(unknown))}; there are {', '.join(NAMES)}")
        return 2
    described = machine()
    console.print(
        f"[bold]{described['processor']}[/], {described['cores']} cores,"
        f" {described['memoryGiB']} GiB, Python {described['python']}; load {described['load']}",
        highlight=False,
    )
    missed = 0
    for name in names:
        with console.status(f"measuring: {name} ..."):
            report: Report = importlib.import_module(f"benchmarks.{name}").measure()
        report.show(console)
        report.save(name)
        missed += sum(figure.met is False for figure in report.figures)
    console.print(f"{missed} figures missed their aim" if missed else "every aim was met")
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
