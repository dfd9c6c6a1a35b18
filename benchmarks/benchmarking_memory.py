"""Peak memory, predicted and measured, of twenty small architectures on a CPU.

Batches run as a worker runs them, from the smallest on; the line through their peaks foresees
one four times as large as the largest, which is then run. What is judged is what the model and its
batch add to the process: the libraries, which take far more than so small a model, would make any
guess look good. Parameters in float32 are held against the bytes in the file, and the estimate
without a run against the slope that was measured.
"""

import asyncio
import contextlib
import io
import statistics
import struct
import tempfile
from pathlib import Path
from typing import Any

import orjson
import transformers

from benchmarker.memory import DOUBT, fit, rungs
from benchmarker.worker.child import started
from benchmarks.report import Report, figure
from models.tasks import row

# Sizes predicted from the ones that run before them.
FORESEEN = (64, 256)
TEXT = {
    "hidden_size": 256, "num_hidden_layers": 4, "num_attention_heads": 4, "intermediate_size": 512,
    "vocab_size": 2000, "max_position_embeddings": 256, "pad_token_id": 0,
}  # fmt: skip
SHARED = {**TEXT, "num_key_value_heads": 2, "head_dim": 64, "bos_token_id": 1, "eos_token_id": 2}
GPT2 = {"n_embd": 256, "n_layer": 4, "n_head": 4, "vocab_size": 2000, "n_positions": 256}
SIGHT = {
    "hidden_size": 256, "num_hidden_layers": 4, "num_attention_heads": 4, "intermediate_size": 512,
    "image_size": 224, "patch_size": 16,
}  # fmt: skip
ENCODERS: dict[str, dict[str, Any]] = {
    **dict.fromkeys(("bert", "roberta", "electra", "mpnet", "deberta-v2", "xlm-roberta"), TEXT),
    "albert": {**TEXT, "embedding_size": 128},
    "distilbert": {"dim": 256, "n_layers": 4, "n_heads": 4, "hidden_dim": 512, "vocab_size": 2000},
}
DECODERS: dict[str, dict[str, Any]] = {
    **dict.fromkeys(("llama", "mistral", "qwen2", "gemma", "phi"), SHARED),
    "gpt_neox": TEXT,
    "gpt2": GPT2,
    "opt": {**TEXT, "ffn_dim": 512, "word_embed_proj_dim": 256},
}
SEEING: dict[str, dict[str, Any]] = {
    **dict.fromkeys(("vit", "deit", "beit"), SIGHT),
    "convnext": {"hidden_sizes": [32, 64, 128, 256], "depths": [2, 2, 2, 2], "image_size": 224},
}


def measure() -> Report:
    report = Report("Peak memory, foreseen and measured")
    errors: dict[int, dict[str, float]] = {size: {} for size in FORESEEN}
    slopes, weights = {}, {}
    for kind, (task, config) in architectures().items():
        with tempfile.TemporaryDirectory() as folder:
            exact = make(Path(folder), kind, task, config)
            setup, peaks = asyncio.run(look(folder, task))
        process = setup["base"] - setup["weights"]
        for size in FORESEEN:
            base, slope = fit({ran: peaks[ran] for ran in peaks if ran < size}) or (0.0, 0.0)
            errors[size][kind] = 100 * (
                (base + slope * size - process) / (peaks[size] - process) - 1
            )
        estimated = (setup["estimate"] - setup["base"]) / slope
        slopes[kind] = max(estimated, 1 / estimated)
        weights[kind] = abs(setup["parameters"] * 4 - exact)
    for size, of_size in errors.items():
        worst = max(of_size, key=lambda kind: abs(of_size[kind]))
        name = (
            f"batch {size} by the smaller ones: of {len(of_size)} architectures the worst, {worst}"
        )
        report.add(figure(name, abs(of_size[worst]), "% off", at_most=10))
        mean = statistics.fmean(map(abs, of_size.values()))
        report.add(figure(f"batch {size} by the smaller ones: on average", mean, "% off"))
        each = ", ".join(f"{kind} {error:+.1f} %" for kind, error in of_size.items())
        report.notes.append(f"Batch {size}: {each}")
    worst = max(weights, key=weights.__getitem__)
    report.add(figure(f"weights: the worst, {worst}", weights[worst], "bytes off", at_most=0))
    worst = max(slopes, key=slopes.__getitem__)
    name = f"a sample, estimated without a run: the worst, {worst}"
    report.add(figure(name, slopes[worst], "times too much or too little", at_most=DOUBT))
    report.notes.append(
        "Off what the model and its batch add to the process, as the kernel counts it."
    )
    return report


def architectures() -> dict[str, tuple[str, dict[str, Any]]]:
    return {
        **{kind: ("feature-extraction", config) for kind, config in ENCODERS.items()},
        **{kind: ("text-generation", config) for kind, config in DECODERS.items()},
        **{kind: ("image-feature-extraction", config) for kind, config in SEEING.items()},
    }


def make(folder: Path, kind: str, task: str, config: dict[str, Any]) -> int:
    """Write a small model of a kind; return the bytes of its weights by the file's header."""
    chosen = transformers.AutoConfig.for_model(kind, **config)
    served = row(task, "transformers")
    generates = served.generates
    auto_class = transformers.AutoModelForCausalLM if generates else transformers.AutoModel
    with contextlib.redirect_stderr(io.StringIO()):
        auto_class.from_config(chosen).save_pretrained(folder)
        if served.takes == "image":
            size = {"height": 224, "width": 224}
            transformers.ViTImageProcessor(size=size).save_pretrained(folder)
    with (folder / "model.safetensors").open("rb") as file:
        (length,) = struct.unpack("<Q", file.read(8))
        header = orjson.loads(file.read(length))
    tensors = [value for name, value in header.items() if name != "__metadata__"]
    return sum(end - start for start, end in (t["data_offsets"] for t in tensors))


async def look(folder: str, task: str) -> tuple[dict[str, Any], dict[int, float]]:
    """Return the worker's `figures.Setup` and its peaks in MiB, by batch size."""
    question: dict[str, Any] = {
        "do": "load", "folder": folder, "task": task, "library": "transformers", "device": "cpu",
        "dtype": "float32", "attention": None, "compile": False, "inputTokens": None,
        "newTokens": 4, "steps": 1, "seed": 0, "maxMemoryMib": None, "memoryShare": 0.9,
        "givesBack": True,
    }  # fmt: skip
    async with started("benchmarker.worker.measure") as child:
        setup = await child.request(**question)
        peaks = {}
        for size in rungs(FORESEEN):
            peaks[size] = (await child.request(do="probe", batchSize=size))["peakRss"]
    return setup, peaks
