"""The benchmarker against optimum-benchmark on three small models, with a bare loop as referee.

Ours and the bare loop are two processes that load the model themselves and take short turns. The
place of a process's memory can make all its calls a few per cent slower or faster, so there are
several such pairs, and the median of their ratios counts.

The peer has its own environment, because it needs older libraries. It cannot take turns, so the
best of several rounds counts, both for the peer and for the bare loop in its environment.
"""

import asyncio
import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
import venv
from asyncio.subprocess import PIPE, Process
from pathlib import Path
from typing import Any

from transformers import (
    BertConfig,
    BertModel,
    ViTConfig,
    ViTForImageClassification,
    ViTImageProcessor,
)

from benchmarker.worker.child import Child, started
from benchmarks.benchmarking_peer import BATCH, TOKENS, WARMUP
from benchmarks.report import Report, figure

HERE = Path(__file__).parent
PEERS = HERE.parent / ".lilypad" / "peers" / "optimum-benchmark"
CALLS = int(os.environ.get("CALLS", "200"))
ROUNDS = int(os.environ.get("ROUNDS", "3"))
PAIRS = int(os.environ.get("PAIRS", "7"))
# Turns of each pair, and calls in each turn.
TURNS, TURN = 20, 25


def measure() -> Report:
    report = Report("The benchmarker beside optimum-benchmark 0.6.0")
    python = environment()
    with tempfile.TemporaryDirectory() as folder:
        for name, (model, task) in make(Path(folder)).items():
            pairs = [asyncio.run(pair(str(model), task, seed)) for seed in range(PAIRS)]
            measured, bare = sorted(pairs, key=lambda pair: pair[0] / pair[1])[PAIRS // 2]
            report.add(
                figure(
                    f"{name}: ours",
                    measured,
                    "ms",
                    against=("bare loop", bare),
                    at_least=bare * 0.98,
                    at_most=bare * 1.02,
                )
            )
            ratios = ", ".join(f"{measured / bare:.3f}" for measured, bare in pairs)
            report.notes.append(f"{name}, ours against the bare loop, pair by pair: {ratios}.")
            best = dict.fromkeys(("bare", "inline", "process"), float("inf"))
            for _ in range(ROUNDS):
                for tool in best:
                    best[tool] = min(best[tool], time_with(tool, python, str(model)))
            there = ("bare loop there", best["bare"])
            for tool in ("inline", "process"):
                report.add(
                    figure(f"{name}: optimum-benchmark, {tool}", best[tool], "ms", against=there)
                )
    report.notes.append(
        f"Batch {BATCH}, {TOKENS} tokens or a picture of 32 x 32. Ours: medians of {TURNS} turns of"
        f" {TURN} calls, the middle of {PAIRS} pairs of processes. optimum-benchmark: median of"
        f" {CALLS} calls, best of {ROUNDS} rounds; process is what it does by default."
    )
    return report


async def pair(folder: str, task: str, seed: int) -> tuple[float, float]:
    """Return the median milliseconds per call, of the benchmarker and of the bare loop."""
    measured: list[float] = []
    bare: list[float] = []
    script = (str(HERE / "benchmarking_peer.py"), "bare", folder)
    async with started("benchmarker.worker.measure") as child:
        await child.request(
            do="load", folder=folder, task=task, library="transformers", device="cpu",
            dtype="float32", attention=None, compile=False, inputTokens=TOKENS, newTokens=2,
            steps=1, seed=0, maxMemoryMib=None, memoryShare=0.9, givesBack=False,
        )  # fmt: skip
        loop = await asyncio.create_subprocess_exec(
            sys.executable, *script, stdin=PIPE, stdout=PIPE, stderr=subprocess.DEVNULL
        )
        try:
            await by_bare_loop(loop, TURN)
            await by_ours(child, TURN)
            order = random.Random(seed)
            for _ in range(TURNS):
                for tool in order.sample(["ours", "bare"], 2):
                    if tool == "ours":
                        measured += await by_ours(child, TURN)
                    else:
                        bare += await by_bare_loop(loop, TURN)
        finally:
            loop.kill()
            await loop.wait()
    return statistics.median(measured), statistics.median(bare)


async def by_bare_loop(loop: Process, calls: int) -> list[float]:
    """Return the milliseconds of each call in a bare loop."""
    assert loop.stdin
    assert loop.stdout
    loop.stdin.write(b"%d\n" % calls)
    times: list[float] = json.loads(await loop.stdout.readline())
    return times


async def by_ours(child: Child, calls: int) -> list[float]:
    """Return the milliseconds of each call, measured by the worker's own process."""
    block: dict[str, Any] = {"round": 0, "batchSize": BATCH, "calls": calls, "warmup": WARMUP}
    return [time / 1e6 for time in (await child.request(do="block", **block))["wall"]]


def environment() -> str:
    """Return the interpreter of the peer's environment; create it the first time."""
    python = PEERS / "bin" / "python"
    done = PEERS / ".installed"
    if not done.exists():
        venv.create(PEERS, with_pip=True, clear=True)
        install = ["-m", "pip", "install", "-q", "-r", str(HERE / "benchmarking_peers.txt")]
        subprocess.run([str(python), *install], check=True)
        done.touch()
    return str(python)


def make(folder: Path) -> dict[str, tuple[Path, str]]:
    """Write three models to disk, and return the task of each."""
    shapes = {"tiny BERT": (2, 64), "small BERT": (4, 256)}
    tasks = {}
    for name, (layers, width) in shapes.items():
        config = BertConfig(
            num_hidden_layers=layers, hidden_size=width, num_attention_heads=4,
            intermediate_size=2 * width, vocab_size=1000,
        )  # fmt: skip
        BertModel(config).save_pretrained(folder / name)
        tasks[name] = (folder / name, "feature-extraction")
    sizes = {"hidden_size": 128, "num_hidden_layers": 4, "num_attention_heads": 4}
    model = ViTForImageClassification(ViTConfig(image_size=32, patch_size=8, **sizes))
    model.save_pretrained(folder / "ViT")
    ViTImageProcessor(size={"height": 32, "width": 32}).save_pretrained(folder / "ViT")
    tasks["small ViT"] = (folder / "ViT", "image-classification")
    return tasks


def time_with(tool: str, python: str, folder: str) -> float:
    """Return the median milliseconds per call in the peer's environment."""
    done = subprocess.run(
        [python, str(HERE / "benchmarking_peer.py"), tool, folder, str(CALLS)],
        cwd=folder,  # it writes a log to the current folder
        env={**os.environ, "HF_HUB_OFFLINE": "1", "PYTHONPATH": ""},
        input=str(CALLS),  # for the bare loop
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        check=True,
    )
    if tool == "bare":
        return statistics.median(json.loads(done.stdout))
    # The peer's processes write logs there too, even while they exit.
    [line_of_median] = [line for line in done.stdout.splitlines() if line.startswith('{"median"')]
    return float(json.loads(line_of_median)["median"])
