"""Memory that modules request on a CPU, compared with the peak of a real run of each.

Models of the usual sizes of twenty architectures, with random weights, are generated, and each
module runs once at the batch and the length that it names, on pictures of 12 million pixels. The
network ends a job that takes more than it asked for, so that no figure may be below the peak.
"""

import asyncio
import base64
import hashlib
import io
import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx2
import numpy as np
import soundfile
import transformers
import yaml
from PIL import Image

from benchmarks.report import Report, figure
from common.contracts.generation import GenerateOptions, GenerateRequest
from generator.handlers import Handlers
from generator.hub import Hub
from generator.settings import Settings
from hub import vision
from hub.families import byte_pair_tokenizer, word_piece_tokenizer
from models.tasks import Task, row

COMMIT = "c" * 40
WORD = "frog "
QUERY = {"query": "a frog"}


@dataclass(frozen=True)
class Case:
    """An architecture: its config class and the fields that differ from the library's defaults."""

    config: str
    model: str
    tag: str
    fields: dict[str, Any] = field(default_factory=dict)
    processor: str = ""
    parameters: dict[str, Any] = field(default_factory=dict)
    library: str = "transformers"

    @property
    def task(self) -> Task:
        return row(self.tag, self.library)


CASES = {
    "bert": Case("Bert", "BertForSequenceClassification", "text-classification"),
    "roberta": Case("Roberta", "RobertaForMaskedLM", "fill-mask", {"max_position_embeddings": 514}),
    "distilbert": Case("DistilBert", "DistilBertForTokenClassification", "token-classification"),
    "deberta-v3": Case(
        "DebertaV2",
        "DebertaV2ForSequenceClassification",
        "text-classification",
        # As deberta-v3-base has them.
        {
            "hidden_size": 768,
            "num_hidden_layers": 12,
            "num_attention_heads": 12,
            "intermediate_size": 3072,
            "relative_attention": True,
            "position_buckets": 256,
            "norm_rel_ebd": "layer_norm",
            "share_att_key": True,
            "pos_att_type": ["p2c", "c2p"],
            "position_biased_input": False,
            "type_vocab_size": 0,
        },
    ),
    "deberta": Case("Deberta", "DebertaForSequenceClassification", "text-classification"),
    "electra": Case("Electra", "ElectraModel", "feature-extraction"),
    "mpnet": Case("MPNet", "MPNetModel", "feature-extraction", {"max_position_embeddings": 514}),
    "modernbert": Case("ModernBert", "ModernBertForMaskedLM", "fill-mask"),
    "bart": Case("Bart", "BartForSequenceClassification", "zero-shot-classification"),
    "ranker": Case(
        "Bert", "BertForSequenceClassification", "text-ranking", {"num_labels": 1}, "", QUERY
    ),
    "gpt2": Case("GPT2", "GPT2LMHeadModel", "text-generation", {}, "", {"max_new_tokens": 64}),
    "t5": Case("T5", "T5ForConditionalGeneration", "summarization", {}, "", {"max_new_tokens": 64}),
    "vit": Case(
        "ViT", "ViTForImageClassification", "image-classification", {}, "ViTImageProcessorPil"
    ),
    "swin": Case(
        "Swin", "SwinForImageClassification", "image-classification", {}, "ViTImageProcessorPil"
    ),
    "convnext": Case(
        "ConvNext",
        "ConvNextForImageClassification",
        "image-classification",
        {},
        "ConvNextImageProcessorPil",
    ),
    "segformer": Case(
        "Segformer",
        "SegformerForSemanticSegmentation",
        "image-segmentation",
        # As ADE20K labels them, which most of its models were trained on.
        {"num_labels": 150},
        "SegformerImageProcessorPil",
    ),
    "dpt": Case("DPT", "DPTForDepthEstimation", "depth-estimation", {}, "DPTImageProcessorPil"),
    "sam": Case("Sam", "SamModel", "mask-generation", {}, "SamImageProcessor", {"points": 8}),
    "wav2vec2": Case(
        "Wav2Vec2",
        "Wav2Vec2ForSequenceClassification",
        "audio-classification",
        {},
        "Wav2Vec2FeatureExtractor",
    ),
    "ast": Case(
        "AST",
        "ASTForAudioClassification",
        "audio-classification",
        {},
        "ASTFeatureExtractor",
    ),
    "whisper": Case(
        "Whisper",
        "WhisperForConditionalGeneration",
        "automatic-speech-recognition",
        # As whisper-base has them.
        {
            "d_model": 512,
            "encoder_layers": 6,
            "decoder_layers": 6,
            "encoder_attention_heads": 8,
            "decoder_attention_heads": 8,
            "encoder_ffn_dim": 2048,
            "decoder_ffn_dim": 2048,
        },
        "WhisperFeatureExtractor",
    ),
}


def measure() -> Report:
    report = Report("Modules on a processor: memory asked for, and the peak of a run")
    for name in CASES:
        asked, peak = run(name)
        against = ("peak of a run", peak)
        report.add(figure(name, asked, "MiB asked", against=against, ratio_at_least=1))
    return report


def run(name: str) -> tuple[float, float]:
    """Return the MiB that a case's module requests, and the peak of its run."""
    case = CASES[name]
    with tempfile.TemporaryDirectory() as root:
        app = Path(root)
        # In a process of its own, which holds the weights.
        making = [sys.executable, "-m", "benchmarks.modules_memory", name, str(app / "model")]
        subprocess.run(making, check=True, capture_output=True)
        hub = Hub("http://hub.invalid", transport=Folder(app / "model", case))
        request = GenerateRequest(model_url="acme/frog", options=GenerateOptions(gpu=False))
        module = asyncio.run(Handlers(hub, Settings()).generate(request))
        for file, text in module.files.items():
            (app / file).write_text(text, encoding="utf-8")
        manifest = yaml.safe_load(module.files["module.yaml"])
        peak = execute(app, longest(manifest, case))
        return manifest["resources"]["memoryMiB"], peak


# Runs the module, whose request may be longer than an environment variable, and then writes the
# peak of the process. What the system reports of a child includes the parent's pages at its start.
PROGRAM = """
import os, re, runpy, sys
os.environ["REQUEST_B64"] = open("request").read()
sys.argv = ["run_inference.py"]
try:
    runpy.run_path("run_inference.py", run_name="__main__")
finally:
    [peak] = re.findall(r"VmHWM:\\s*(\\d+) kB", open("/proc/self/status").read())
    open("peak", "w").write(peak)
"""


def execute(app: Path, inputs: dict[str, Any]) -> float:
    """Run a module once in a separate process; return its peak memory in MiB."""
    (app / "request").write_text(base64.b64encode(json.dumps(inputs).encode()).decode())
    environment = {**os.environ, "OUTPUT_DIR": str(app / "outputs"), "HF_HUB_OFFLINE": "1"}
    if "torchvision==" in (app / "requirements.txt").read_text():
        environment |= vision.environment()
    subprocess.run(
        [sys.executable, "-c", PROGRAM], cwd=app, env=environment, capture_output=True, check=False
    )
    result = json.loads((app / "outputs/result.json").read_text())
    assert result["status"] == "success", result["error"]
    return int((app / "peak").read_text()) / 1024


def longest(manifest: dict[str, Any], case: Case) -> dict[str, Any]:
    """Return a full batch of inputs of the module's maximum length."""
    tokens, batch = manifest["run"]["maxTokens"], manifest["run"]["batchSize"]
    if case.task.generates:
        tokens -= case.parameters.get("max_new_tokens", 0) + 8
    value = WORD * (tokens - 8)
    kind = manifest["inputs"][0]["name"]
    if case.task.family == "fill_mask":
        value = WORD * (tokens - 16) + "[MASK]"
    if kind == "image":
        file = io.BytesIO()
        Image.linear_gradient("L").resize((4000, 3000)).convert("RGB").save(file, "PNG")
        value = base64.b64encode(file.getvalue()).decode()
    if kind == "audio":
        value = sound(60)
    return {"inputs": [value] * batch, "parameters": case.parameters}


def sound(seconds: int) -> str:
    file = io.BytesIO()
    noise = np.random.default_rng(0).normal(0, 0.1, seconds * 16_000).astype("float32")
    soundfile.write(file, noise, 16_000, format="WAV")
    return base64.b64encode(file.getvalue()).decode()


class Folder(httpx2.AsyncBaseTransport):
    """A Hub with one model, whose files are in a folder."""

    def __init__(self, folder: Path, case: Case) -> None:
        self.folder = folder
        # Once, since the generator waits seconds for an answer.
        files = []
        for path in sorted(folder.iterdir()):
            with path.open("rb") as file:
                digest = hashlib.file_digest(file, "sha256").hexdigest()
            size = path.stat().st_size
            entry = {"rfilename": path.name, "size": size, "blobId": "b" * 40}
            files.append(entry | {"lfs": {"sha256": digest, "size": size}})
        described = {
            "id": "acme/frog",
            "sha": COMMIT,
            "pipeline_tag": case.tag,
            "library_name": case.library,
            "cardData": {"license": "mit"},
            "siblings": files,
        }
        self.described = json.dumps(described).encode()

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        path = request.url.path
        if path.startswith("/api/models/"):
            return _answer(self.described)
        with (self.folder / path.partition(f"/resolve/{COMMIT}/")[2]).open("rb") as file:
            if asked := re.fullmatch(r"bytes=(\d+)-(\d+)", request.headers.get("range", "")):
                file.seek(int(asked[1]))
                return _answer(file.read(int(asked[2]) + 1 - int(asked[1])), 206)
            return _answer(file.read())


def _answer(content: bytes, status: int = 200) -> httpx2.Response:
    async def stream() -> AsyncIterator[bytes]:
        yield content

    return httpx2.Response(status, content=stream())


def make(name: str, folder: Path) -> None:
    """Save the model of a case. Runs in a separate process, since it holds the weights."""
    case = CASES[name]
    folder.mkdir()
    config = getattr(transformers, f"{case.config}Config")(**case.fields)
    generates = case.task.generates or case.task.transcribes
    tokenizer: Callable[[], Any] = byte_pair_tokenizer if generates else word_piece_tokenizer
    written = tokenizer()
    written.model_max_length = 10**9
    if case.task.tokenizes or case.task.transcribes:
        written.save_pretrained(folder)
    if case.task.family == "zero_shot_text":
        config.id2label = {0: "contradiction", 1: "neutral", 2: "entailment"}
    for special in ("bos_token_id", "eos_token_id", "pad_token_id", "decoder_start_token_id"):
        if getattr(config, special, 0) is not None and getattr(config, special, 0) >= 0:
            setattr(config, special, getattr(config, special, 0) % len(written))
    if case.processor:
        getattr(transformers, case.processor)().save_pretrained(folder)
    getattr(transformers, case.model)(config).save_pretrained(folder)


if __name__ == "__main__":
    make(sys.argv[1], Path(sys.argv[2]))
