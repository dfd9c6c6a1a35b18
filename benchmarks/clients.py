"""The clients' overhead over bare HTTP calls and a bare interpreter, in the same run.

Measured in CPU time, which is the client's own and independent of other load on the machine.
"""

import asyncio
import contextlib
import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

import httpx2

from benchmarks.report import Figure, Report
from lilypad_client import LilypadClient

ROOT = Path(__file__).parents[1]
# Blocks of calls taken in turns; the first warms up.
BLOCKS, BLOCK_CALLS = 21, 50
MAX_OVERHEAD_MS = 0.3
# Starts of an interpreter, taken in turns; the first warms up.
STARTS = 21
PROGRAMS = {
    "import of LilypadClient": ("from lilypad_client import LilypadClient", 60),
    "lilypad --help": ("from lilypad_client.cli.__main__ import run; run(['--help'])", 120),
}
BODY = {"modelId": "a/b", "metrics": {"latency": 8.0, "throughput": 120.0}}
ANSWER = json.dumps({"data": {"status": "success"}, "error": None, "meta": {}}).encode()
NODE_PROGRAM = """
import { LilypadClient } from 'file://DIST';

const [url, body, blocks, calls] = JSON.parse(process.argv[2]);
const client = new LilypadClient({ apiKey: 'k', baseUrl: url });
const headers = { 'Content-Type': 'application/json', Authorization: 'Bearer k' };
const ways = [
  async () => (await fetch(url + '/v1/api/monitor/record',
    { method: 'POST', headers, body: JSON.stringify(body) })).json(),
  async () => client.metrics.record(body),
];
const times = [[], []];
for (let block = 0; block < blocks; block += 1) {
  for (const [which, way] of ways.entries()) {
    const began = process.cpuUsage();
    for (let call = 0; call < calls; call += 1) await way();
    const { user, system } = process.cpuUsage(began);
    if (block > 0) times[which].push((user + system) / 1e3 / calls);
  }
}
const median = (all) => all.sort((a, b) => a - b)[all.length >> 1];
console.log(JSON.stringify(times.map(median)));
"""


def measure() -> Report:
    report = Report("Clients: processor time of a call beside a bare one")
    with subprocess.Popen(
        [sys.executable, "-m", "benchmarks.clients"], cwd=ROOT, stdout=subprocess.PIPE, text=True
    ) as server:
        try:
            assert server.stdout
            url = server.stdout.readline().strip()
            _add(report, "Python", "httpx2", *_python(url))
            _add(report, "JavaScript", "fetch", *_javascript(url))
        finally:
            server.terminate()
    _add_starts(report)
    report.notes.append(
        f"medians of {BLOCKS - 1} blocks of {BLOCK_CALLS} calls, to a server that only answers;"
        f" of {STARTS - 1} starts of an interpreter"
    )
    return report


def _add(report: Report, language: str, peer: str, bare_ms: float, client_ms: float) -> None:
    report.add(Figure(f"{language}: a call", client_ms, "ms", peer, bare_ms))
    overhead_ms = client_ms - bare_ms
    report.add(
        Figure(
            f"{language}: overhead",
            overhead_ms,
            "ms",
            aim=f"at most {MAX_OVERHEAD_MS} ms",
            met=overhead_ms <= MAX_OVERHEAD_MS,
        )
    )


def _add_starts(report: Report) -> None:
    programs = {
        "pass": "pass",
        "typer": "import typer",
        **{name: code for name, (code, _) in PROGRAMS.items()},
    }
    times_ms: dict[str, list[float]] = {name: [] for name in programs}
    for start in range(STARTS):
        for name, code in programs.items():
            taken_ms = _start_ms(code)
            if start > 0:
                times_ms[name].append(taken_ms)
    bare_ms = statistics.median(times_ms["pass"])
    report.notes.append(
        f"typer alone takes {statistics.median(times_ms['typer']) - bare_ms:.0f} ms"
    )
    for name, (_, max_ms) in PROGRAMS.items():
        taken_ms = statistics.median(times_ms[name])
        report.add(Figure(name, taken_ms, "ms", "an interpreter", bare_ms))
        above_ms = taken_ms - bare_ms
        aim = f"at most {max_ms} ms"
        report.add(Figure(f"{name}: above it", above_ms, "ms", aim=aim, met=above_ms <= max_ms))


def _start_ms(code: str) -> float:
    """Return the CPU time in ms of an interpreter that runs the code."""
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.DEVNULL)
    _, status, used = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    assert process.returncode == 0, code
    return (used.ru_utime + used.ru_stime) * 1e3


def _python(url: str) -> tuple[float, float]:
    times_ms: tuple[list[float], list[float]] = ([], [])
    with (
        httpx2.Client(headers={"Authorization": "Bearer k"}) as bare,
        LilypadClient("k", url) as client,
    ):
        ways = (
            lambda: bare.post(f"{url}/v1/api/monitor/record", json=BODY).json(),
            lambda: client.metrics.record(BODY["modelId"], BODY["metrics"]),  # type: ignore[arg-type]
        )
        for block in range(BLOCKS):
            for way, times in zip(ways, times_ms, strict=True):
                start_s = time.process_time()
                for _ in range(BLOCK_CALLS):
                    way()
                if block > 0:
                    times.append((time.process_time() - start_s) * 1e3 / BLOCK_CALLS)
    bare_ms, client_ms = map(statistics.median, times_ms)
    return bare_ms, client_ms


def _javascript(url: str) -> tuple[float, float]:
    from integration import packages  # noqa: PLC0415  (builds the package)

    built = packages.javascript() / "dist" / "index.js"
    script = packages.workshop() / "bench.mjs"
    script.write_text(NODE_PROGRAM.replace("DIST", str(built)))
    arguments = json.dumps([url, BODY, BLOCKS, BLOCK_CALLS])
    bare_ms, client_ms = json.loads(
        packages.run(packages.NODE, script, arguments, folder=packages.workshop())
    )
    return bare_ms, client_ms


async def serve() -> None:
    """Give the same answer to every request; print the server's address."""
    head = f"HTTP/1.1 200 OK\r\nContent-Length: {len(ANSWER)}\r\n\r\n"

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(asyncio.IncompleteReadError):
            while True:
                request = await reader.readuntil(b"\r\n\r\n")
                length = request.lower().partition(b"content-length:")[2].split(b"\r\n")[0]
                await reader.readexactly(int(length))
                writer.write(head.encode() + ANSWER)
                await writer.drain()
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1")
    host, port = server.sockets[0].getsockname()
    print(f"http://{host}:{port}", flush=True)
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(serve())
