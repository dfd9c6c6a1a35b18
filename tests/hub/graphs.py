"""Small models whose weights are an ONNX file, written by torch's own exporter."""

import warnings
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnx
import torch
from transformers import (
    AutoModel,
    AutoModelForMaskedLM,
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
    AutoTokenizer,
)

from hub import families, pipelines, sentences

# How a model is made, and the class that it is loaded by to be exported.
KINDS: dict[str, tuple[Callable[[Path], Any], Any]] = {
    "similarity": (lambda folder: sentences.make(folder, "projected"), AutoModel),
    "features": (lambda folder: sentences.bert(str(folder)), AutoModel),
    "classes": (families.bert_classifier, AutoModelForSequenceClassification),
    "masks": (families.bert_mask_filler, AutoModelForMaskedLM),
    "tokens": (families.bert_tagger, AutoModelForTokenClassification),
    "ranking": (pipelines.cross_encoder, AutoModelForSequenceClassification),
}
WEIGHTS = "model.safetensors"


def make(
    folder: Path,
    kind: str,
    at: str = "onnx/model.onnx",
    *,
    beside: bool = False,
    original: bool = False,
) -> None:
    """Make a model, export it to the file `at`, and delete its other weights.

    Branches have the same numbers. With `beside`, the graph's are in a file of their own; with
    `original`, the weights stay.
    """
    torch.manual_seed(zlib.crc32(kind.encode()))
    save, loads = KINDS[kind]
    save(folder)
    (folder / at).parent.mkdir(exist_ok=True)
    export(folder, loads, folder / at, beside=beside)
    if not original:
        (folder / WEIGHTS).unlink()


class Traced(torch.nn.Module):
    """A model whose inputs and output have an order."""

    def __init__(self, model: Any, names: list[str]) -> None:
        super().__init__()
        self.model, self.names = model, names

    def forward(self, *values: torch.Tensor) -> torch.Tensor:
        output: torch.Tensor = self.model(**dict(zip(self.names, values, strict=True)))[0]
        return output


def export(folder: Path, loads: Any, path: Path, *, beside: bool) -> None:
    model = loads.from_pretrained(folder, attn_implementation="eager").eval()
    example = AutoTokenizer.from_pretrained(folder)(["a frog"], return_tensors="pt")
    names = [name for name in ("input_ids", "attention_mask", "token_type_ids") if name in example]
    output = "last_hidden_state" if loads is AutoModel else "logits"
    free = {0: "batch", 1: "tokens"}
    with warnings.catch_warnings():  # of the exporter about itself
        warnings.simplefilter("ignore")
        torch.onnx.export(
            Traced(model, names).eval(),
            tuple(example[name] for name in names),
            str(path),
            input_names=names,
            output_names=[output],
            dynamic_axes=dict.fromkeys((*names, output), free),
            dynamo=False,
        )
    if beside:
        graph = onnx.load(path)
        onnx.save_model(
            graph,
            path,
            save_as_external_data=True,
            location=f"{path.name}_data",
            size_threshold=0,
        )
