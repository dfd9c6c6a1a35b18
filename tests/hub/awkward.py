"""Makers of models that a reader must refuse or handle specially."""

import json
import pkgutil
import struct
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from safetensors.torch import load_file, save_file

from hub.families import bert_classifier, llama_generator, write_json
from hub.repository import CLAIMED_SIZES

WEIGHTS = "model.safetensors"


class Payload:
    """The content of a malicious pickle: loading it creates the file `a-pickle-ran` here."""

    def __reduce__(self) -> tuple[object, ...]:
        return Path.touch, (Path("a-pickle-ran"),)


@contextmanager
def numbered_storages() -> Iterator[None]:
    """Number storages, which torch's first format names and sorts by their addresses."""
    address = torch.UntypedStorage._cdata.__get__
    numbers: defaultdict[int, int] = defaultdict(count().__next__)
    number = property(lambda storage: numbers[address(storage)])
    with patch.object(torch.UntypedStorage, "_cdata", number):
        yield


def pickle_only(folder: Path, malicious: bool = False) -> None:
    """Make a classifier whose pickle is a training's checkpoint, or has a payload."""
    bert_classifier(folder)
    weights: dict[str, Any] = load_file(folder / WEIGHTS)
    saved = {**weights, "payload": Payload()} if malicious else {"model": weights, "epoch": 3}
    torch.save(saved, folder / "pytorch_model.bin")
    (folder / WEIGHTS).unlink()


def pickled(
    folder: Path, maker: str, shards: int = 0, is_first: bool = False, **options: Any
) -> None:
    """Make a model with another maker, and pickle its weights as the libraries once did.

    With `shards`, in so many files, with an index; if `is_first`, in torch's first format.
    """
    pkgutil.resolve_name(f"hub.{maker}")(folder, **options)
    for file in sorted(folder.rglob(WEIGHTS)):
        pickle_weights(file, shards, is_first=is_first)


def pickle_weights(file: Path, shards: int, *, is_first: bool) -> None:
    weights = load_file(file)
    file.unlink()
    config = json.loads((file.parent / "config.json").read_text())
    if config.get("model_type") == "t5":  # names that share one embedding, as its state_dict() has
        for name in ("encoder.embed_tokens.weight", "decoder.embed_tokens.weight"):
            weights[name] = weights["shared.weight"]
    if not shards:
        with numbered_storages():
            torch.save(
                weights,
                file.with_name("pytorch_model.bin"),
                _use_new_zipfile_serialization=not is_first,
            )
        return
    places: dict[str, str] = {}
    for number in range(shards):
        name = f"pytorch_model-{number + 1:05}-of-{shards:05}.bin"
        part = dict(sorted(weights.items())[number::shards])
        places |= dict.fromkeys(part, name)
        torch.save(part, file.with_name(name))
    index = {"metadata": {}, "weight_map": places}
    write_json(file.with_name("pytorch_model.bin.index.json"), index)


def remote_code(folder: Path) -> None:
    llama_generator(folder)
    auto = {"AutoConfig": "code.LilyConfig", "AutoModelForCausalLM": "code.LilyForCausalLM"}
    edit_config(folder, auto_map=auto, model_type="lily", architectures=["LilyForCausalLM"])
    (folder / "code.py").write_text(
        "from pathlib import Path\n\n"
        'Path("remote-code-ran").touch()\n\n'
        "from transformers import LlamaConfig as LilyConfig\n"
        "from transformers import LlamaForCausalLM as LilyForCausalLM\n"
    )


def internal_attention(folder: Path) -> None:
    """CVE-2026-4372: transformers before 5.3 fetches and runs the kernel that this field names."""
    bert_classifier(folder)
    edit_config(folder, _attn_implementation_internal="attacker/kernel")


def hostile_names(folder: Path, labels: Sequence[str], names: Sequence[str]) -> None:
    """Make a working classifier with hostile labels, and a file with each hostile name."""
    bert_classifier(folder, labels)
    for name in names:
        (folder / name.replace("/", "_")).write_text("nothing\n")


def hostile_config(folder: Path, **fields: Any) -> None:
    bert_classifier(folder)
    edit_config(folder, **fields)


def lying_header(folder: Path, lie: str) -> None:
    """Make weights with an invalid header: `huge`, `past-the-end`, `not-json` or `absurd`."""
    bert_classifier(folder)
    absurd = {"w": {"dtype": "F32", "shape": [2**62, 2**62], "data_offsets": [0, 8]}}
    (folder / WEIGHTS).write_bytes(
        {
            "huge": struct.pack("<Q", 2**63 - 1) + b"{}",
            "past-the-end": struct.pack("<Q", 1_000_000) + b'{"w": {"dtype": "F32",',
            "not-json": safetensors_header(b"this is no JSON"),
            "absurd": safetensors_header(json.dumps(absurd).encode()) + bytes(8),
        }[lie]
    )


def sharded(folder: Path, shards: int, shape: Sequence[int]) -> None:
    """Write true headers of a bfloat16 tensor per shard; sizes are claimed, data are zeros."""
    llama_generator(folder)
    (folder / WEIGHTS).unlink()
    size = 2 * shape[0] * shape[1]
    weight_map: dict[str, str] = {}
    claims = {}
    for number in range(1, shards + 1):
        name = f"model-{number:05}-of-{shards:05}.safetensors"
        tensor = f"model.layers.{number - 1}.weight"
        entries = {tensor: {"dtype": "BF16", "shape": list(shape), "data_offsets": [0, size]}}
        if number == shards:  # what the model has beside its layers, empty
            empty = {"dtype": "BF16", "shape": [0], "data_offsets": [size, size]}
            entries |= {"model.embed_tokens.weight": empty, "lm_head.weight": empty}
        header = safetensors_header(json.dumps(entries).encode())
        (folder / name).write_bytes(header)
        weight_map |= dict.fromkeys(entries, name)
        claims[name] = len(header) + size
    index = {"metadata": {"total_size": shards * size}, "weight_map": weight_map}
    write_json(folder / "model.safetensors.index.json", index)
    write_json(folder / CLAIMED_SIZES, claims)


def altered(
    folder: Path,
    maker: str,
    without: Sequence[str] = (),
    edits: Mapping[str, Mapping[str, Any]] = {},
    weights: str = "",
) -> None:
    """Make another maker's files, with files removed, JSON fields changed or weights replaced.

    `weights` names a function here that changes them.
    """
    pkgutil.resolve_name(f"hub.{maker}")(folder)
    for pattern in without:
        for path in list(folder.glob(pattern)):
            path.unlink()
    for name, fields in edits.items():
        old = json.loads((folder / name).read_text()) if (folder / name).exists() else {}
        write_json(folder / name, {**old, **fields})
    if weights:
        changed = globals()[weights](load_file(folder / WEIGHTS))
        save_file(changed, folder / WEIGHTS, metadata={"format": "pt"})


def headless(weights: dict[str, Any]) -> dict[str, Any]:
    """Make a model without the head that was trained for its task."""
    return {name: value for name, value in weights.items() if not name.startswith("classifier")}


def wrapped(weights: dict[str, Any]) -> dict[str, Any]:
    """Name the weights as torch.compile and DataParallel leave them, which no library undoes."""
    return {f"_orig_mod.{name}": value for name, value in weights.items()}


def packed(weights: dict[str, Any]) -> dict[str, Any]:
    """Make weights of four bits each, as GPTQ stores them."""
    changed = {}
    for name, value in weights.items():
        if not name.endswith("proj.weight"):
            changed[name] = value
            continue
        start, (out, into) = name.removesuffix("weight"), value.shape
        changed[f"{start}qweight"] = torch.zeros(into // 8, out, dtype=torch.int32)
        changed[f"{start}qzeros"] = torch.zeros(1, out // 8, dtype=torch.int32)
        changed[f"{start}scales"] = torch.ones(1, out, dtype=torch.float16)
    return changed


def eighth(weights: dict[str, Any]) -> dict[str, Any]:
    """Make weights of eight bits each, as DeepSeek stores them."""
    return {
        name: value.to(torch.float8_e4m3fn) if name.endswith("proj.weight") else value
        for name, value in weights.items()
    }


def edit_config(folder: Path, **fields: Any) -> None:
    config = json.loads((folder / "config.json").read_text())
    write_json(folder / "config.json", config | fields)


def safetensors_header(header: bytes) -> bytes:
    return struct.pack("<Q", len(header)) + header
