"""Models whose transformer is an ONNX file, which onnxruntime computes."""

import inspect
import os
from pathlib import Path
from typing import Any

from generator.templates.inference.checkpoint import IncompleteModel

# numpy's names of the types of a graph's inputs.
TYPES = {"tensor(int64)": "int64", "tensor(int32)": "int32", "tensor(float)": "float32"}
# Names of the output that a model without a head has, in exporters' files.
STATES = ("last_hidden_state", "token_embeddings")


def load_graph(manifest: dict[str, Any], directory: str, load: Any) -> Any:
    """Call `load`, which loads a model by a library, with an ONNX file in place of its weights.

    All else (the tokenizer, pooling, labels, prompts) is loaded by the library as it stands.
    """
    import transformers

    session = open_graph(manifest, directory)
    base: Any = transformers.PreTrainedModel
    plain = base.__dict__["from_pretrained"]

    def from_pretrained(chosen: Any, /, *_: Any, config: Any, **__: Any) -> Any:
        return in_place_of_weights(chosen, config, session), {"missing_keys": []}

    base.from_pretrained = classmethod(from_pretrained)
    try:
        return load()
    finally:
        base.from_pretrained = plain


def open_graph(manifest: dict[str, Any], directory: str) -> Any:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    # All that the machine has would be many more than a container may use.
    options.intra_op_num_threads = min(manifest["resources"]["cpu"], len(os.sched_getaffinity(0)))
    # It keeps up to twice what was needed once, and one job is one process.
    options.enable_cpu_mem_arena = False
    path = str(Path(directory, manifest["run"]["file"]))
    return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])


def in_place_of_weights(chosen: Any, config: Any, session: Any) -> Any:
    """Return a model of a class of transformers that has no weights, and computes by `session`."""
    import torch

    with torch.device("meta"):
        model = chosen(config)
    model._modules.clear()
    model._buffers.clear()
    model._parameters.clear()
    # The libraries ask a model's parameters where it is, and of which type.
    model.placed = torch.nn.Parameter(torch.zeros(()), requires_grad=False)
    # A class of transformers without a head is named so.
    headless = chosen.__name__.endswith("Model")

    def forward(**given: Any) -> Any:
        return compute(session, given, headless=headless)

    # The libraries leave out what a model does not take.
    forward.__signature__ = inspect.signature(chosen.forward)  # type: ignore[attr-defined]
    model.forward = forward
    return model.eval()


def compute(session: Any, given: dict[str, Any], *, headless: bool) -> Any:
    """Return the last hidden state of each token if `headless`, else the logits."""
    import torch
    from transformers.modeling_outputs import BaseModelOutput, SequenceClassifierOutput

    features = {}
    taken = {node.name: node for node in session.get_inputs()}
    mask = given.get("attention_mask")
    if "attention_mask" not in taken and mask is not None and not bool(mask.all()):
        raise IncompleteModel(
            "the ONNX file has no attention_mask, so that texts of different lengths would change "
            "each other's answers: ask for one text at a time"
        )
    for name, node in taken.items():
        value = given.get(name)
        if value is None and name == "token_type_ids":
            value = torch.zeros_like(given["input_ids"])
        if value is None or node.type not in TYPES:
            raise IncompleteModel(f"the ONNX file needs {name}, which its tokenizer does not give")
        features[name] = value.numpy().astype(TYPES[node.type])
    names = [node.name for node in session.get_outputs()]
    wanted = [name for name in (STATES if headless else ("logits",)) if name in names]
    if not wanted and len(names) == 1:  # exporters number an output without a name
        wanted = names
    if not wanted:
        raise IncompleteModel(
            f"the ONNX file has no output {STATES[0] if headless else 'logits'}: it was exported "
            "for another task"
        )
    output = torch.from_numpy(session.run(wanted[:1], features)[0]).float()
    if headless and output.dim() != 3:
        raise IncompleteModel("the ONNX file has no vectors of tokens: only one of each text")
    if headless:
        return BaseModelOutput(last_hidden_state=output)
    return SequenceClassifierOutput(logits=output)
