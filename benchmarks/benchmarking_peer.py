"""One model timed by a bare loop, or by optimum-benchmark in two ways.

    python benchmarking_peer.py inline|process FOLDER CALLS     prints the median in ms
    python benchmarking_peer.py bare FOLDER     reads a number of calls, prints their ms, repeats

Runs in either environment, so nothing of the project is imported here.
"""

import json
import statistics
import sys
import time
from pathlib import Path
from typing import Any

BATCH, TOKENS = 4, 32
WARMUP = 50
# Warm-up calls before each turn, since other processes ran in between.
REWARM = 2


def bare(folder: str) -> None:
    """Time the calls that each line of standard input requests, with nothing but a clock."""
    import torch  # noqa: PLC0415  (optimum-benchmark's isolated process is to import it itself)
    from transformers import AutoModel, AutoModelForImageClassification  # noqa: PLC0415

    kind = AutoModelForImageClassification if sees(folder) else AutoModel
    model = kind.from_pretrained(folder).eval()
    inputs = inputs_for(model.config)
    clock = time.perf_counter
    with torch.inference_mode():
        warm, began = 0, clock()
        while warm < WARMUP or clock() - began < 1:
            model(**inputs)
            warm += 1
        for line in sys.stdin:
            for _ in range(REWARM):
                model(**inputs)
            times = []
            for _ in range(int(line)):
                start = clock()
                model(**inputs)
                times.append((clock() - start) * 1e3)
            print(json.dumps(times), flush=True)


def inputs_for(config: Any) -> dict[str, Any]:
    import torch  # noqa: PLC0415

    if hasattr(config, "image_size"):
        return {"pixel_values": torch.randn(BATCH, 3, config.image_size, config.image_size)}
    ids = torch.randint(0, config.vocab_size, (BATCH, TOKENS))
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids)}


def sees(folder: str) -> bool:
    return "image_size" in json.loads((Path(folder) / "config.json").read_text())


def by_the_peer(launcher: str, folder: str, calls: int) -> list[float]:
    from optimum_benchmark import (  # noqa: PLC0415  (only in its own environment)
        Benchmark,
        BenchmarkConfig,
        InferenceConfig,
        InlineConfig,
        ProcessConfig,
        PyTorchConfig,
    )

    launchers = {"inline": lambda: InlineConfig(device_isolation=False), "process": ProcessConfig}
    config = BenchmarkConfig(
        name=launcher,
        launcher=launchers[launcher](),
        scenario=InferenceConfig(
            input_shapes={"batch_size": BATCH, "sequence_length": TOKENS},
            iterations=calls,
            duration=1,
            warmup_runs=WARMUP,
        ),
        backend=PyTorchConfig(
            model=folder,
            device="cpu",
            library="transformers",
            task="image-classification" if sees(folder) else "feature-extraction",
        ),
    )
    latencies: list[float] = Benchmark.launch(config).to_dict()["forward"]["latency"]["values"]
    return latencies


if __name__ == "__main__":
    how, where = sys.argv[1:3]
    if how == "bare":
        bare(where)
    else:
        found = by_the_peer(how, where, int(sys.argv[3]))
        print(json.dumps({"median": statistics.median(found) * 1e3, "calls": len(found)}))
