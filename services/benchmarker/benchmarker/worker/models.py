"""A model as its authors published it, and random inputs that fit it.

Nothing here runs code of the model's repository, and weights are read from
safetensors alone.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from PIL import Image

from benchmarker.tasks import TASKS, Task
from benchmarker.worker.child import Failed
from benchmarker.worker.device import DTYPES, MIB
from benchmarker.worker.timing import Steps

# Tokens of an input when nobody says how many: a paragraph.
USUAL_TOKENS = 128
# Of a sound: a sentence.
USUAL_SECONDS = 5


@dataclass
class Loaded:
    """A model on its device.

    `prepare` makes the call on a batch: its inputs are on the device before it
    is timed. `tokens` are per input.
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
        """MiB of parameters and buffers, each counted once."""
        tensors = [*self.module.parameters(), *self.module.buffers()]
        return sum({t.data_ptr(): t.nbytes for t in tensors}.values()) / MIB

    @property
    def read(self) -> int:
        """Positions that what is generated looks back on: of a text, or of what was heard."""
        return self.tokens or self.config.get("max_source_positions") or 0


def load(question: dict[str, Any], device: str, steps: Steps) -> Loaded:
    """Read a model from its folder onto the device.

    Args:
        question: `{folder, task, library, dtype, attention, compile, inputTokens, newTokens,
            seed}`.
        device: `cpu` or `cuda`.
        steps: marked for every token, by models that generate.

    Raises:
        Failed: what is asked for does not fit the model.
    """
    began = time.perf_counter()
    task = TASKS[question["task"]]
    if question["library"] == "diffusers":
        return _pipeline(question, device, began)
    module = _model(question, task, device)
    module.eval().requires_grad_(requires_grad=False)
    generator = torch.Generator(device="cpu").manual_seed(question["seed"])
    config = config_of(module)
    attention = str(getattr(config, "_attn_implementation", None) or "default")
    if question["compile"]:
        module.compile()  # in place: the forward of the module, also inside generate()
    new_tokens = question["newTokens"] if task.generates else None
    tokens = None
    if task.takes == "image":
        shape, draw = _images(question, generator)
    elif task.takes == "audio":
        shape, draw = _sounds(question, generator)
    else:
        tokens = _tokens(config, question["inputTokens"], new_tokens or 0)
        shape, draw = _texts(config, tokens, generator)
    prepare = _generating(module, draw, new_tokens, steps) if new_tokens else _calling(module, draw)

    def on_device(batch_size: int) -> Callable[[], Any]:
        inputs = {name: tensor.to(device) for name, tensor in draw(batch_size).items()}
        for name, tensor in inputs.items():
            if tensor.is_floating_point():
                inputs[name] = tensor.to(DTYPES[question["dtype"]])
        return prepare(inputs)

    return Loaded(
        module,
        on_device,
        shape,
        tokens,
        new_tokens,
        attention,
        time.perf_counter() - began,
        config.to_dict(),
    )


def _model(question: dict[str, Any], task: Task, device: str) -> torch.nn.Module:
    options: dict[str, Any] = {"dtype": DTYPES[question["dtype"]]}
    if question["attention"]:
        options["attn_implementation"] = question["attention"]
    try:
        # A cross encoder is a classifier of pairs, which transformers loads as it is.
        if question["library"] == "sentence-transformers" and task.name != "text-ranking":
            return _sentence_transformer(question["folder"], options, device)
        auto_class = getattr(transformers, task.auto_class)
        module: torch.nn.Module = auto_class.from_pretrained(
            question["folder"],
            use_safetensors=True,
            trust_remote_code=False,
            local_files_only=True,
            **options,
        ).to(device)
    except (ValueError, ImportError, OSError, KeyError) as error:
        raise Failed(f"the model could not be loaded: {_first_line(error)}", "load") from error
    return module


def _pipeline(question: dict[str, Any], device: str, began: float) -> Loaded:
    from benchmarker.worker import diffusion  # noqa: PLC0415  (slow; few models need it)

    pipeline = diffusion.read(question, device)
    return Loaded(
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
    """Of the model itself, also where it is the first step of a sentence transformer."""
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


def _tokens(config: Any, asked: int | None, new_tokens: int) -> int:
    text = config.get_text_config()
    most = getattr(text, "max_position_embeddings", None) or getattr(text, "n_positions", None)
    # RoBERTa's positions begin after the padding index.
    if most and getattr(config, "model_type", "") in {"roberta", "xlm-roberta", "camembert"}:
        most -= 2
    room = (most or 1 << 30) - new_tokens
    if room < 1 or (asked or 0) > room:
        raise Failed(
            f"the model reads {most} tokens, and {asked or 1} + {new_tokens} were asked for",
            "tokens",
        )
    return asked or min(USUAL_TOKENS, room)


def _texts(
    config: Any, tokens: int, generator: torch.Generator
) -> tuple[dict[str, list[int]], Draw]:
    """Token ids from the whole vocabulary, all of one length: no padding to flatter or spoil it."""
    vocabulary = config.get_text_config().vocab_size

    def draw(batch_size: int) -> dict[str, torch.Tensor]:
        ids = torch.randint(0, vocabulary, (batch_size, tokens), generator=generator)
        # BERT and its kin look for separators only in labels; ids may be any.
        return {"input_ids": ids, "attention_mask": torch.ones_like(ids)}

    return {"input_ids": [tokens]}, draw


def _images(
    question: dict[str, Any], generator: torch.Generator
) -> tuple[dict[str, list[int]], Draw]:
    """What the model's own processor makes of an image, with random values in place of its."""
    processor = transformers.AutoImageProcessor.from_pretrained(
        Path(question["folder"]), trust_remote_code=False, local_files_only=True
    )
    noise = np.random.default_rng(question["seed"]).integers(0, 256, (480, 640, 3), dtype=np.uint8)
    example = dict(processor(images=Image.fromarray(noise), return_tensors="pt"))
    return _like(example, generator)


def _sounds(
    question: dict[str, Any], generator: torch.Generator
) -> tuple[dict[str, list[int]], Draw]:
    """What the model's own processor makes of some seconds of noise, with random values."""
    processor = transformers.AutoFeatureExtractor.from_pretrained(
        Path(question["folder"]), trust_remote_code=False, local_files_only=True
    )
    rate = processor.sampling_rate
    noise = np.random.default_rng(question["seed"]).uniform(-1, 1, USUAL_SECONDS * rate)
    return _like(dict(processor(noise, sampling_rate=rate, return_tensors="pt")), generator)


def _like(
    example: dict[str, torch.Tensor], generator: torch.Generator
) -> tuple[dict[str, list[int]], Draw]:
    """Inputs of the example's shapes, with random values where it has fractions."""

    def draw(batch_size: int) -> dict[str, torch.Tensor]:
        return {
            name: torch.randn((batch_size, *tensor.shape[1:]), generator=generator)
            if tensor.is_floating_point()
            else tensor.repeat(batch_size, *[1] * (tensor.dim() - 1))
            for name, tensor in example.items()
        }

    return {name: list(tensor.shape[1:]) for name, tensor in example.items()}, draw


def _calling(module: torch.nn.Module, _: Draw) -> Prepare:
    takes_dict = type(module).__name__ == "SentenceTransformer"

    def prepare(inputs: dict[str, torch.Tensor]) -> Callable[[], Any]:
        if takes_dict:
            # It writes its results into what it is given.
            return lambda: module(dict(inputs))
        return lambda: module(**inputs)

    return prepare


def _generating(module: Any, _: Draw, new_tokens: int, steps: Steps) -> Prepare:
    """`generate` as the modules call it, greedily, with exactly so many new tokens."""

    def mark(input_ids: torch.Tensor, _scores: Any, **_: Any) -> torch.Tensor:
        steps.mark()
        return torch.zeros(input_ids.shape[0], dtype=torch.bool, device=input_ids.device)

    def prepare(inputs: dict[str, torch.Tensor]) -> Callable[[], Any]:
        # A decoder of its own begins with one token; otherwise the input comes first.
        before = 1 if module.config.is_encoder_decoder else inputs["input_ids"].shape[1]
        length = before + new_tokens

        def call() -> None:
            out = module.generate(
                **inputs,
                max_new_tokens=new_tokens,
                min_new_tokens=new_tokens,
                do_sample=False,
                num_beams=1,
                use_cache=True,
                stopping_criteria=[mark],
            )
            if out.shape[1] != length:
                raise Failed(f"{out.shape[1]} tokens came out in place of {length}", "tokens")

        return call

    return prepare


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[0] if lines else repr(error)
