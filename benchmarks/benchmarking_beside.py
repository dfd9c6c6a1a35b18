"""The benchmarker beside optimum-benchmark on three small models; a bare loop is the referee.

Each figure is of a fresh process, which loads the model itself. The tools take turns, and of each
the least disturbed of some rounds counts. The peer has an environment of its own, because it
needs older libraries; so the bare loop runs in both, and each tool is held against its own.
"""

import asyncio
import json
import os
import statistics
import subprocess
import sys
import tempfile
import venv
from pathlib import Path
from typing import Any

from transformers import (
    BertConfig,
    BertModel,
    ViTConfig,
    ViTForImageClassification,
    ViTImageProcessor,
)

from benchmarker.worker.child import started
from benchmarks.benchmarking_peer import BATCH, TOKENS, WARMUP
from benchmarks.report import Report, figure

HERE = Path(__file__).parent
PEERS = HERE.parent / ".lilypad" / "peers" / "optimum-benchmark"
CALLS = int(os.environ.get("CALLS", "200"))
ROUNDS = int(os.environ.get("ROUNDS", "3"))


def measure() -> Report:
    report = Report("The benchmarker beside optimum-benchmark 0.6.0")
    python = environment()
    with tempfile.TemporaryDirectory() as folder:
        for name, (model, task) in make(Path(folder)).items():
            best = {tool: float("inf") for tool in TOOLS}
            for _ in range(ROUNDS):
                for tool in TOOLS:
                    best[tool] = min(best[tool], time_with(tool, python, str(model), task))
            bare = best["bare loop"]
            report.add(
                figure(
                    f"{name}: ours",
                    best["ours"],
                    "ms",
                    against=("bare loop", bare),
                    at_least=bare * 0.98,
                    at_most=bare * 1.02,
                )
            )
            theirs = ("bare loop there", best["bare loop there"])
            for tool in ("inline", "process"):
                report.add(
                    figure(f"{name}: optimum-benchmark, {tool}", best[tool], "ms", against=theirs)
                )
    report.notes.append(
        f"Batch {BATCH}, {TOKENS} tokens or a picture of 32 x 32; median of {CALLS} calls, best of"
        f" {ROUNDS} rounds. process is what optimum-benchmark does by default."
    )
    return report


def environment() -> str:
    """The interpreter of the peer's environment; made the first time."""
    python = PEERS / "bin" / "python"
    done = PEERS / ".installed"
    if not done.exists():
        venv.create(PEERS, with_pip=True, clear=True)
        install = ["-m", "pip", "install", "-q", "-r", str(HERE / "benchmarking_peers.txt")]
        subprocess.run([str(python), *install], check=True)
        done.touch()
    return str(python)


def make(folder: Path) -> dict[str, tuple[Path, str]]:
    """Three models on the disk, and the task that each is measured for."""
    shapes = {"tiny BERT": (2, 64), "small BERT": (4, 256)}
    made = {}
    for name, (layers, width) in shapes.items():
        config = BertConfig(
            num_hidden_layers=layers, hidden_size=width, num_attention_heads=4,
            intermediate_size=2 * width, vocab_size=1000,
        )  # fmt: skip
        BertModel(config).save_pretrained(folder / name)
        made[name] = (folder / name, "feature-extraction")
    sizes = {"hidden_size": 128, "num_hidden_layers": 4, "num_attention_heads": 4}
    model = ViTForImageClassification(ViTConfig(image_size=32, patch_size=8, **sizes))
    model.save_pretrained(folder / "ViT")
    ViTImageProcessor(size={"height": 32, "width": 32}).save_pretrained(folder / "ViT")
    made["small ViT"] = (folder / "ViT", "image-classification")
    return made


TOOLS = ("bare loop", "ours", "bare loop there", "inline", "process")


def time_with(tool: str, python: str, folder: str, task: str) -> float:
    """Median of a call in ms."""
    if tool == "ours":
        return asyncio.run(by_ours(folder, task))
    how = tool if tool in ("inline", "process") else "bare"
    interpreter = sys.executable if tool == "bare loop" else python
    script = str(HERE / "benchmarking_peer.py")
    done = subprocess.run(
        [interpreter, script, how, folder, str(CALLS)],
        cwd=folder,  # it writes a log where it stands
        env={**os.environ, "HF_HUB_OFFLINE": "1", "PYTHONPATH": ""},
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        check=True,
    )
    # The peer's processes write logs there as well, also while they end.
    [said] = [line for line in done.stdout.splitlines() if line.startswith('{"median"')]
    return float(json.loads(said)["median"])


async def by_ours(folder: str, task: str) -> float:
    """As the worker asks the process that measures, block by block."""
    question: dict[str, Any] = {
        "do": "load", "folder": folder, "task": task, "library": "transformers", "device": "cpu",
        "dtype": "float32", "attention": None, "compile": False, "inputTokens": TOKENS,
        "newTokens": 2, "steps": 1, "seed": 0, "mostMemory": None, "memoryShare": 0.9,
    }  # fmt: skip
    wall: list[int] = []
    async with started("benchmarker.worker.measure") as child:
        await child.ask(**question)
        for number in range(8):
            block = {"round": number, "batchSize": BATCH, "calls": CALLS // 8, "warmup": WARMUP}
            wall += (await child.ask(do="block", **block))["wall"]
    return statistics.median(wall) / 1e6
