"""The benchmarker's GPU paths on a real GPU: `make bench-gpu`.

A Llama of random weights, made on the spot, goes through the same process that
measures models for callers: CUDA events beside the wall clock, memory of the
device's allocator, energy of the board, ceilings, and a size that does not fit.
"""

import asyncio
import itertools
import statistics
import tempfile
from typing import Any

import torch
from transformers import LlamaConfig, LlamaForCausalLM

from benchmarker.worker.child import OutOfMemory, started
from benchmarks.report import Report, figure
from models.dtypes import MIB

NEW_TOKENS = 32
SIZES = (1, 8, 64)


def measure() -> Report:
    if not torch.cuda.is_available():
        raise SystemExit("this machine has no CUDA device that torch can use; nothing was measured")
    report = Report(f"The benchmarker on {torch.cuda.get_device_name(0)}")
    with tempfile.TemporaryDirectory() as folder:
        config = LlamaConfig(
            hidden_size=2048, intermediate_size=5632, num_hidden_layers=16,
            num_attention_heads=32, num_key_value_heads=8, vocab_size=32_000,
        )  # fmt: skip
        model = LlamaForCausalLM(config).to(torch.bfloat16)
        exact = sum(p.nbytes for p in {p.data_ptr(): p for p in model.parameters()}.values())
        model.save_pretrained(folder)
        del model
        asyncio.run(_measure(report, folder, exact / MIB))
    return report


async def _measure(report: Report, folder: str, weights: float) -> None:
    question = {
        "do": "load", "folder": folder, "task": "text-generation", "library": "transformers",
        "device": "cuda", "dtype": "bfloat16", "attention": "sdpa", "compile": False,
        "inputTokens": 512, "newTokens": NEW_TOKENS, "steps": 1, "seed": 0, "maxMemoryMib": None,
        "memoryShare": 0.9, "givesBack": False,
    }  # fmt: skip
    async with started("benchmarker.worker.measure") as child:
        ceilings = await child.request(do="ceilings", device="cuda", dtype="bfloat16")
        report.add(figure("copy", ceilings["bandwidth"], "GB/s"))
        report.add(figure("matrix product", ceilings["compute"] / 1e3, "TFLOP/s"))
        setup = await child.request(**question)
        report.add(
            figure(
                "weights",
                setup["weights"],
                "MiB",
                against=("counted", weights),
                at_least=weights * 0.999,
                at_most=weights * 1.001,
            )
        )
        for size in SIZES:
            memory = await child.request(do="probe", batchSize=size)
            report.add(
                figure(
                    f"batch {size}: allocated",
                    memory["allocated"],
                    "MiB",
                    against=("reserved", memory["reserved"]),
                    at_most=memory["reserved"],
                )
            )
            await _times(report, child, size)
        energy = await child.request(do="energy", batchSize=SIZES[-1])
        if "missing" in energy:
            report.notes.append(energy["missing"])
        else:
            report.add(figure("mean power", energy["meanPower"], "W"))
            report.add(figure("energy of an inference", energy["perInference"], "J"))
            report.add(figure("counted for", energy["window"], "s", at_least=5))
        try:
            await child.request(do="probe", batchSize=1 << 20)
            survived = 0
        except OutOfMemory:
            again = await child.request(do="probe", batchSize=1)
            survived = int(again["allocated"] > 0)
        report.add(
            figure(
                "a size that does not fit is reported, and the next is measured",
                survived,
                "",
                at_least=1,
            )
        )


async def _times(report: Report, child: Any, size: int) -> None:
    block = {"round": 0, "batchSize": size, "calls": 20, "warmup": 3}
    answer = await child.request(do="block", **block)
    wall, device = (statistics.median(answer[name]) / 1e6 for name in ("wall", "device"))
    # The host submits the last work before the device has finished it, never after.
    report.add(
        figure(
            f"batch {size}: wall clock",
            wall,
            "ms",
            against=("CUDA events", device),
            at_least=device,
        )
    )
    gaps = [b - a for steps in answer["steps"] for a, b in itertools.pairwise(steps)]
    report.add(figure(f"batch {size}: between tokens", statistics.median(gaps) / 1e6, "ms"))
    tokens = size * NEW_TOKENS / wall * 1e3
    report.add(figure(f"batch {size}: new tokens", tokens, "token/s"))
