"""Peak memory foreseen and measured, on twenty architectures made small; on a CPU.

Two small batches are run, as a worker does; the line through their peaks foresees one of four
times the larger, which is then run. So is the first of all foreseen, by the estimate that needs
no run. Parameters in float32 are held
against the bytes in the file.
"""

import asyncio
import contextlib
import io
import struct
import tempfile
from pathlib import Path
from typing import Any

import orjson
import transformers

from benchmarker.memory import fit
from benchmarker.worker.child import started
from benchmarks.report import Report, figure

SMALL, LARGE = (4, 8), 32
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
    line, before, weights = {}, {}, {}
    for kind, (task, config) in architectures().items():
        with tempfile.TemporaryDirectory() as folder:
            exact = make(Path(folder), kind, task, config)
            found = asyncio.run(look(folder, task))
        peaks = found["peaks"]
        fitted = fit({size: peaks[size] for size in SMALL})
        assert fitted
        line[kind] = (fitted[0] + fitted[1] * LARGE) / peaks[LARGE] - 1
        before[kind] = found["estimate"] / peaks[1] - 1
        weights[kind] = abs(found["parameters"] * 4 - exact)
    name = f"of {len(line)} architectures the worst"
    for title, errors in (
        (f"batch {LARGE} by the line through {SMALL[0]} and {SMALL[1]}", line),
        ("batch 1 by the estimate without a run", before),
    ):
        worst = max(errors, key=lambda kind: abs(errors[kind]))
        value = 100 * abs(errors[worst])
        report.add(figure(f"{title}: {name}, {worst}", value, "% off", at_most=10))
    worst = max(weights, key=weights.__getitem__)
    report.add(figure(f"weights: {name}, {worst}", weights[worst], "bytes off", at_most=0))
    report.notes.append(
        "By the line: " + ", ".join(f"{kind} {100 * error:+.1f} %" for kind, error in line.items())
    )
    report.notes.append("A peak is the resident set of the whole process, libraries included.")
    return report


def architectures() -> dict[str, tuple[str, dict[str, Any]]]:
    return {
        **{kind: ("feature-extraction", config) for kind, config in ENCODERS.items()},
        **{kind: ("text-generation", config) for kind, config in DECODERS.items()},
        **{kind: ("image-feature-extraction", config) for kind, config in SEEING.items()},
    }


def make(folder: Path, kind: str, task: str, config: dict[str, Any]) -> int:
    """Write a small model of the kind; returns the bytes of its weights, by the file's header."""
    chosen = transformers.AutoConfig.for_model(kind, **config)
    generates = task == "text-generation"
    auto_class = transformers.AutoModelForCausalLM if generates else transformers.AutoModel
    with contextlib.redirect_stderr(io.StringIO()):
        auto_class.from_config(chosen).save_pretrained(folder)
        if task.startswith("image"):
            size = {"height": 224, "width": 224}
            transformers.ViTImageProcessor(size=size).save_pretrained(folder)
    with (folder / "model.safetensors").open("rb") as file:
        (length,) = struct.unpack("<Q", file.read(8))
        header = orjson.loads(file.read(length))
    tensors = [value for name, value in header.items() if name != "__metadata__"]
    return sum(end - start for start, end in (t["data_offsets"] for t in tensors))


async def look(folder: str, task: str) -> dict[str, Any]:
    """`{parameters, estimate, peaks by size}`, sizes in MiB, as the worker measures them."""
    question: dict[str, Any] = {
        "do": "load", "folder": folder, "task": task, "library": "transformers", "device": "cpu",
        "dtype": "float32", "attention": None, "compile": False, "inputTokens": None,
        "newTokens": 4, "steps": 1, "seed": 0, "mostMemory": None, "memoryShare": 0.9,
    }  # fmt: skip
    async with started("benchmarker.worker.measure") as child:
        setup = await child.ask(**question)
        peaks = {}
        for size in (1, *SMALL, LARGE):
            peaks[size] = (await child.ask(do="probe", batchSize=size))["peakRss"]
    return {"parameters": setup["parameters"], "estimate": setup["estimate"], "peaks": peaks}
