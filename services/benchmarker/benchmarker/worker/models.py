"""A model as its authors published it, and random inputs that fit it.

Nothing here runs code of the model's repository, and weights are read from
safetensors alone.
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

from benchmarker.tasks import TASKS, Task
from benchmarker.worker.child import Failed
from benchmarker.worker.device import DTYPES, MIB
from benchmarker.worker.timing import Steps

# Tokens of an input when nobody says how many: a paragraph.
USUAL_TOKENS = 128
# Of a sound: a sentence.
USUAL_SECONDS = 5
# Classes that load a task's models where the one in its row does not.
OTHERS = {
    "AutoModelForCTC": ("AutoModelForSpeechSeq2Seq",),
    "AutoModelForSemanticSegmentation": (
        "AutoModelForInstanceSegmentation",
        "AutoModelForUniversalSegmentation",
        "AutoModelForImageSegmentation",
    ),
}
# How configurations name ids that stand for something else than words.
SPECIAL = ("_token_id", "_token_ids", "_token_index")


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


def _model(question: dict[str, Any], task: Task, device: str) -> tuple[torch.nn.Module, bool]:
    """The model on its device, and whether it generates."""
    options: dict[str, Any] = {"dtype": DTYPES[question["dtype"]]}
    if question["attention"]:
        options["attn_implementation"] = question["attention"]
    safely = {"trust_remote_code": False, "local_files_only": True}
    folder = question["folder"]
    try:
        # A cross encoder is a classifier of pairs, which transformers loads as it is.
        if question["library"] == "sentence-transformers" and task.name != "text-ranking":
            return _sentence_transformer(folder, options, device), False
        config = transformers.AutoConfig.from_pretrained(folder, **safely)
        auto_class, generates = _auto_class(task, config)
        module: torch.nn.Module = getattr(transformers, auto_class).from_pretrained(
            folder, use_safetensors=True, **safely, **options
        )
    except (ValueError, ImportError, OSError, KeyError) as error:
        raise Failed(f"the model could not be loaded: {_first_line(error)}", "load") from error
    if task.auto_class == "AutoModelForSequenceClassification":
        _allow_batches(module.config)
    return module.to(device), generates


def _auto_class(task: Task, config: Any) -> tuple[str, bool]:
    """The class of transformers that loads the model, and whether it generates.

    That is what the task's row says, but for architectures that another class of the task loads.

    Raises:
        Failed: none of them does.
    """
    decodes = getattr(config, "is_encoder_decoder", False)
    # Who wants the features of T5 takes its encoder, which runs without anything to decode.
    if task.auto_class == "AutoModel" and decodes and _loads("AutoModelForTextEncoding", config):
        return "AutoModelForTextEncoding", False
    for name in (task.auto_class, *OTHERS.get(task.auto_class, ())):
        if _loads(name, config):
            return name, task.generates or name == "AutoModelForSpeechSeq2Seq"
    raise Failed(
        f"models of type {config.model_type} are not measured for {task.name}", "architecture"
    )


def _loads(auto_class: str, config: Any) -> bool:
    return type(config) in getattr(transformers, auto_class)._model_mapping  # noqa: SLF001  (no other way to ask)


def _allow_batches(config: Any) -> None:
    """Decoders that classify take several inputs only if they know a token to fill up with."""
    text = config.get_text_config()
    if getattr(text, "pad_token_id", None) is None:
        text.pad_token_id = _end(text) or 0


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


def _tokens(module: torch.nn.Module, config: Any, asked: int | None, new_tokens: int) -> int:
    text = config.get_text_config()
    most = getattr(text, "max_position_embeddings", None) or getattr(text, "n_positions", None)
    if most and most < 0:
        most = None  # as XLNet says that it reads any length
    for name, part in module.named_modules():
        # RoBERTa and its kin count from behind the position that stands for padding.
        if name.endswith("position_embeddings") and getattr(part, "padding_idx", None) is not None:
            most = part.num_embeddings - part.padding_idx - 1
    room = (most or 1 << 30) - new_tokens
    if room < 1 or (asked or 0) > room:
        raise Failed(
            f"the model reads {most} tokens, and {asked or 1} + {new_tokens} were asked for",
            "tokens",
        )
    return asked or min(USUAL_TOKENS, room)


def _texts(
    config: Any, tokens: int, new_tokens: int | None, generator: torch.Generator
) -> tuple[dict[str, list[int]], Draw]:
    """Token ids of words, all of one length: no padding to flatter or spoil it.

    They end as texts of the model do, unless they are to be gone on with: some models look for
    the end of a text, and for exactly one.
    """
    text = config.get_text_config()
    special = set(_special(config.to_dict()))
    words = torch.tensor([id for id in range(text.vocab_size) if id not in special])
    end = _end(text)
    goes_on = new_tokens and not getattr(config, "is_encoder_decoder", False)
    if goes_on or (end or 0) >= text.vocab_size:
        end = None

    def draw(batch_size: int) -> dict[str, torch.Tensor]:
        ids = words[torch.randint(len(words), (batch_size, tokens), generator=generator)]
        if end is not None:
            ids[:, -1] = end
        return {"input_ids": ids, "attention_mask": torch.ones_like(ids)}

    return {"input_ids": [tokens]}, draw


def _end(config: Any) -> int | None:
    """The token that ends a text, the first of several."""
    eos: int | list[int] | None = getattr(config, "eos_token_id", None)
    return eos[0] if isinstance(eos, list) else eos


def _special(config: dict[str, Any]) -> Iterator[int | None]:
    """Ids that a configuration names, of its parts too; None where it names none."""
    for name, value in config.items():
        if name.endswith("_config") and isinstance(value, dict):
            yield from _special(value)
        elif name.endswith(SPECIAL):
            yield from value if isinstance(value, list) else [value]


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


def _calling(module: Any, task: Task) -> Prepare:
    takes_dict = type(module).__name__ == "SentenceTransformer"
    # Of a model of texts and pictures, what the one or the other goes through.
    run = getattr(module, f"get_{task.takes}_features", module)

    def prepare(inputs: dict[str, torch.Tensor]) -> Callable[[], Any]:
        if takes_dict:
            # It writes its results into what it is given.
            return lambda: run(dict(inputs))
        return lambda: run(**inputs)

    return prepare


def _generating(module: Any, new_tokens: int, steps: Steps) -> Prepare:
    """`generate` as the modules call it, greedily, with exactly so many new tokens.

    Some models of speech have a `generate` of their own, which also guesses the language and
    cuts what is long into parts; it is the usual one that they call in the end.
    """

    def mark(input_ids: torch.Tensor, _scores: Any, **_: Any) -> torch.Tensor:
        steps.mark()
        return torch.zeros(input_ids.shape[0], dtype=torch.bool, device=input_ids.device)

    def prepare(inputs: dict[str, torch.Tensor]) -> Callable[[], Any]:
        # A decoder of its own begins with one token; otherwise the input comes first.
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
                # Where a model's own settings ask for a static cache it would be, on a GPU alone,
                # whatever was asked for here; `load` compiles the forward itself.
                disable_compile=True,
                stopping_criteria=[mark],
            )
            if out.shape[1] != length:
                raise Failed(f"{out.shape[1]} tokens came out in place of {length}", "tokens")

        return call

    return prepare


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[0] if lines else repr(error)
