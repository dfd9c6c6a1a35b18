"""Models as published, with random inputs that fit them.

No code of the model's repository runs, and weights are read from safetensors only.
"""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from PIL import Image

from benchmarker.worker.device import DTYPES
from benchmarker.worker.process import Failed
from benchmarker.worker.timing import Steps
from common.quantities import counted
from models.dtypes import MIB
from models.tasks import Task, row

# Tokens of an input by default: a paragraph.
DEFAULT_TOKENS = 128
# Length of an audio input: a sentence.
AUDIO_S = 5
# Suffixes of the fields in which configurations name ids of special tokens.
SPECIAL_ID_SUFFIXES = ("_token_id", "_token_ids", "_token_index")


@dataclass
class LoadedModel:
    """A model on its device.

    Attributes:
        prepare: makes the call on a batch, whose inputs are on the device before it is timed.
        tokens: of one input.
    """

    module: torch.nn.Module
    prepare: Callable[[int], Callable[[], Any]]
    shape: dict[str, list[int]]
    tokens: int | None
    new_tokens: int | None
    attention: str
    load_seconds: float
    config: dict[str, Any]

    @property
    def parameters(self) -> int:
        return sum(parameter.numel() for parameter in self.module.parameters())

    @property
    def weights(self) -> float:
        """Return the MiB of parameters and buffers, each counted once."""
        tensors = [*self.module.parameters(), *self.module.buffers()]
        return sum({t.data_ptr(): t.nbytes for t in tensors}.values()) / MIB

    @property
    def read(self) -> int:
        """Return how many input positions, of text or audio, a generated token attends to."""
        return self.tokens or self.config.get("max_source_positions") or 0


def load(question: dict[str, Any], device: str, steps: Steps) -> LoadedModel:
    """Read a model from its folder onto the device.

    Args:
        question: `{folder, task, library, dtype, attention, compile, inputTokens, newTokens,
            seed}`.
        device: `cpu` or `cuda`.
        steps: marked at each generated token.

    Raises:
        Failed: the model cannot be loaded, or not with these options.
    """
    began = time.perf_counter()
    task = row(question["task"], question["library"])
    if question["library"] == "diffusers":
        return _pipeline(question, device, began)
    module, generates = _model(question, task, device)
    module.eval().requires_grad_(requires_grad=False)
    generator = torch.Generator(device="cpu").manual_seed(question["seed"])
    config = config_of(module)
    attention = str(getattr(config, "_attn_implementation", None) or "default")
    if question["compile"]:
        module.compile()  # in place: the forward of the module, also inside generate()
    new_tokens = question["newTokens"] if generates else None
    tokens = None
    if task.takes == "image":
        shape, draw = _images(question, generator)
    elif task.takes == "audio":
        shape, draw = _sounds(question, generator)
    else:
        tokens = _tokens(module, config, question["inputTokens"], new_tokens or 0)
        shape, draw = _texts(config, tokens, new_tokens, generator)
    prepare = _generating(module, new_tokens, steps) if new_tokens else _calling(module, task)

    def on_device(batch_size: int) -> Callable[[], Any]:
        inputs = {name: tensor.to(device) for name, tensor in draw(batch_size).items()}
        for name, tensor in inputs.items():
            if tensor.is_floating_point():
                inputs[name] = tensor.to(DTYPES[question["dtype"]])
        return prepare(inputs)

    return LoadedModel(
        module,
        on_device,
        shape,
        tokens,
        new_tokens,
        attention,
        time.perf_counter() - began,
        config.to_dict(),
    )


def _model(question: dict[str, Any], task: Task, device: str) -> tuple[torch.nn.Module, bool]:
    """Load a model onto its device; return the model, and whether it generates."""
    options: dict[str, Any] = {"dtype": DTYPES[question["dtype"]]}
    if question["attention"]:
        options["attn_implementation"] = question["attention"]
    safely = {"trust_remote_code": False, "local_files_only": True}
    folder = question["folder"]
    try:
        if task.auto_classes == ("SentenceTransformer",):
            return _sentence_transformer(folder, options, device), False
        config = transformers.AutoConfig.from_pretrained(folder, **safely)
        auto_class, generates = _auto_class(task, config)
        module: torch.nn.Module = getattr(transformers, auto_class).from_pretrained(
            folder, use_safetensors=True, **safely, **options
        )
    except (ValueError, ImportError, OSError, KeyError) as error:
        raise Failed(f"the model could not be loaded: {_first_line(error)}", "load") from error
    if "AutoModelForSequenceClassification" in _auto_classes(task):
        _allow_batches(module.config)
    return module.to(device), generates


def _auto_classes(task: Task) -> tuple[str, ...]:
    # A cross encoder is a classifier of pairs, which transformers loads itself.
    if task.auto_classes == ("CrossEncoder",):
        return ("AutoModelForSequenceClassification",)
    return task.auto_classes


def _auto_class(task: Task, config: Any) -> tuple[str, bool]:
    """Return the name of the model's class in transformers, and whether it generates.

    Raises:
        Failed: none of the task's classes loads it.
    """
    decodes = getattr(config, "is_encoder_decoder", False)
    names = _auto_classes(task)
    # T5's features are its encoder's, which runs without a decoder input.
    if names == ("AutoModel",) and decodes and _loads("AutoModelForTextEncoding", config):
        return "AutoModelForTextEncoding", False
    for name in names:
        if _loads(name, config):
            return name, task.generates or name == "AutoModelForSpeechSeq2Seq"
    raise Failed(
        f"models of type {config.model_type} are not measured for {task.tag}", "architecture"
    )


def _loads(auto_class: str, config: Any) -> bool:
    return type(config) in getattr(transformers, auto_class)._model_mapping  # noqa: SLF001  (transformers has no public way)


def _allow_batches(config: Any) -> None:
    """Set a padding token, which classifying decoders need for batches."""
    text = config.get_text_config()
    if getattr(text, "pad_token_id", None) is None:
        text.pad_token_id = _end(text) or 0


def _pipeline(question: dict[str, Any], device: str, began: float) -> LoadedModel:
    from benchmarker.worker import diffusion  # noqa: PLC0415  (slow; few models need it)

    pipeline = diffusion.read(question, device)
    return LoadedModel(
        module=diffusion.parts(pipeline),
        prepare=diffusion.preparing(pipeline, question),
        shape={"steps": [question["steps"]]},
        tokens=None,
        new_tokens=None,
        attention="default",
        load_seconds=time.perf_counter() - began,
        config={},
    )


def config_of(module: Any) -> Any:
    """Return the model's configuration; for a sentence transformer, that of its first module."""
    return getattr(module, "config", None) or module[0].auto_model.config


Draw = Callable[[int], dict[str, torch.Tensor]]
Prepare = Callable[[dict[str, torch.Tensor]], Callable[[], Any]]


def _sentence_transformer(folder: str, options: dict[str, Any], device: str) -> torch.nn.Module:
    from sentence_transformers import SentenceTransformer  # noqa: PLC0415  (slow; few models need it)

    module: torch.nn.Module = SentenceTransformer(
        folder,
        device=device,
        trust_remote_code=False,
        local_files_only=True,
        model_kwargs={**options, "use_safetensors": True},
    )
    return module


def _tokens(module: torch.nn.Module, config: Any, input_tokens: int | None, new_tokens: int) -> int:
    text = config.get_text_config()
    limit = getattr(text, "max_position_embeddings", None) or getattr(text, "n_positions", None)
    if limit and limit < 0:
        limit = None  # XLNet's way to declare any length
    for name, part in module.named_modules():
        # RoBERTa and its relatives number positions from after the padding position.
        if name.endswith("position_embeddings") and getattr(part, "padding_idx", None) is not None:
            limit = part.num_embeddings - part.padding_idx - 1
    room = (limit or 1 << 30) - new_tokens
    if room < 1 or (input_tokens or 0) > room:
        raise Failed(
            f"`inputTokens`: the model reads at most {limit} tokens, new ones included; got"
            f" {input_tokens or 1} + {new_tokens}",
            "tokens",
        )
    return input_tokens or min(DEFAULT_TOKENS, room)


def _texts(
    config: Any, tokens: int, new_tokens: int | None, generator: torch.Generator
) -> tuple[dict[str, list[int]], Draw]:
    """Return the shape and a generator of random token ids, without padding.

    The ids end with the end token unless the model continues them: some models require exactly one
    end token.
    """
    text = config.get_text_config()
    special = set(_special(config.to_dict()))
    words = torch.tensor([id for id in range(text.vocab_size) if id not in special])
    end = _end(text)
    continues = new_tokens and not getattr(config, "is_encoder_decoder", False)
    if continues or (end or 0) >= text.vocab_size:
        end = None

    def draw(batch_size: int) -> dict[str, torch.Tensor]:
        ids = words[torch.randint(len(words), (batch_size, tokens), generator=generator)]
        if end is not None:
            ids[:, -1] = end
        return {"input_ids": ids, "attention_mask": torch.ones_like(ids)}

    return {"input_ids": [tokens]}, draw


def _end(config: Any) -> int | None:
    """Return the end token, the first of several; None without one."""
    eos: int | list[int] | None = getattr(config, "eos_token_id", None)
    return eos[0] if isinstance(eos, list) else eos


def _special(config: dict[str, Any]) -> Iterator[int | None]:
    """Yield the special ids of a configuration and its parts, None for an unset id."""
    for name, value in config.items():
        if name.endswith("_config") and isinstance(value, dict):
            yield from _special(value)
        elif name.endswith(SPECIAL_ID_SUFFIXES):
            yield from value if isinstance(value, list) else [value]


def _images(
    question: dict[str, Any], generator: torch.Generator
) -> tuple[dict[str, list[int]], Draw]:
    """Return the shapes and a generator of random inputs like processed images."""
    processor = transformers.AutoImageProcessor.from_pretrained(
        Path(question["folder"]), trust_remote_code=False, local_files_only=True
    )
    noise = np.random.default_rng(question["seed"]).integers(0, 256, (480, 640, 3), dtype=np.uint8)
    example = dict(processor(images=Image.fromarray(noise), return_tensors="pt"))
    return _like(example, generator)


def _sounds(
    question: dict[str, Any], generator: torch.Generator
) -> tuple[dict[str, list[int]], Draw]:
    """Return the shapes and a generator of random inputs like processed sounds."""
    processor = transformers.AutoFeatureExtractor.from_pretrained(
        Path(question["folder"]), trust_remote_code=False, local_files_only=True
    )
    rate = processor.sampling_rate
    noise = np.random.default_rng(question["seed"]).uniform(-1, 1, AUDIO_S * rate)
    return _like(dict(processor(noise, sampling_rate=rate, return_tensors="pt")), generator)


def _like(
    example: dict[str, torch.Tensor], generator: torch.Generator
) -> tuple[dict[str, list[int]], Draw]:
    """Return the example's shapes, and a generator of batches with random floats."""

    def draw(batch_size: int) -> dict[str, torch.Tensor]:
        return {
            name: torch.randn((batch_size, *tensor.shape[1:]), generator=generator)
            if tensor.is_floating_point()
            else tensor.repeat(batch_size, *[1] * (tensor.dim() - 1))
            for name, tensor in example.items()
        }

    return {name: list(tensor.shape[1:]) for name, tensor in example.items()}, draw


def _calling(module: Any, task: Task) -> Prepare:
    takes_dict = type(module).__name__ == "SentenceTransformer"
    # The half of a text-and-image model that reads this input.
    run = getattr(module, f"get_{task.takes}_features", module)

    def prepare(inputs: dict[str, torch.Tensor]) -> Callable[[], Any]:
        if takes_dict:
            # A copy, since the model writes its results into its argument.
            return lambda: run(dict(inputs))
        return lambda: run(**inputs)

    return prepare


def _generating(module: Any, new_tokens: int, steps: Steps) -> Prepare:
    """Return a function that prepares `generate` calls of exactly `new_tokens` new tokens.

    Decoding is greedy. Some speech models override `generate` to detect the language and split long
    audio; the base class's is called here.
    """

    def mark(input_ids: torch.Tensor, _scores: Any, **_: Any) -> torch.Tensor:
        steps.mark()
        return torch.zeros(input_ids.shape[0], dtype=torch.bool, device=input_ids.device)

    def prepare(inputs: dict[str, torch.Tensor]) -> Callable[[], Any]:
        # A separate decoder starts with one token; otherwise the input comes first.
        decodes = getattr(module.config, "is_encoder_decoder", False)
        before = 1 if decodes else inputs["input_ids"].shape[1]
        length = before + new_tokens

        def call() -> None:
            out = transformers.GenerationMixin.generate(
                module,
                **inputs,
                max_new_tokens=new_tokens,
                min_new_tokens=new_tokens,
                do_sample=False,
                num_beams=1,
                use_cache=True,
                # Otherwise a model whose settings ask for a static cache is compiled on a GPU,
                # requested or not; `load` compiles the forward itself.
                disable_compile=True,
                stopping_criteria=[mark],
            )
            if out.shape[1] != length:
                raise Failed(
                    f"the model generated {counted(out.shape[1], 'token')} instead of {length}",
                    "tokens",
                )

        return call

    return prepare


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[0] if lines else repr(error)
