"""Conversion of pickled weights to safetensors, once, when the image is built.

    python run_inference.py convert

A pickle can hold a program. torch reads it with `weights_only`, which builds nothing but tensors
(files of others have readers of their own, in CONVERTERS), and this command runs without a network;
the pickles are deleted afterwards, so that none is ever read when the module runs. Digests of what
was read and written are in conversion.json.
"""

import hashlib
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml

from generator.templates.inference.program import (
    HERE,
    MODEL_DIR,
    Answer,
    Load,
    main,
    verify,
    write,
)

RECORD = "conversion.json"
# Readers of files that torch did not write, by their paths.
CONVERTERS: dict[str, Callable[[Path, Path], None]] = {}


class Unconverted(Exception):
    """Error for weights that were not converted, or are not those that module.yaml names."""


def main_converting(load: Load, answer: Answer) -> int:
    """Run the command line of a module whose weights are converted; return the exit code."""
    manifest = yaml.safe_load((HERE / "module.yaml").read_text(encoding="utf-8"))
    if sys.argv[1:] == ["convert"]:
        verify(manifest)
        convert(manifest, MODEL_DIR)
        return 0
    if sys.argv[1:] == ["fetch"]:
        return main(load, answer)
    try:
        return main(load, answer, converted(manifest, MODEL_DIR))
    except Unconverted as error:  # the caller has a result also then
        fault = {"type": "RuntimeError", "message": str(error)}
        about = {name: manifest["model"][name] for name in ("id", "commit", "task")}
        result = {"status": "error", "model": about, "outputs": [], "timings": {}, "error": fault}
        write(result)
        print(json.dumps({key: result[key] for key in ("status", "timings", "error")}))
        return 1


def convert(manifest: dict[str, Any], folder: Path) -> None:
    """Convert the pickled weights in a folder, delete them, and write the record."""
    import torch

    pickled = [file for file in manifest["model"]["files"] if "becomes" in file]
    written = []
    for file in pickled:
        old, new = folder / file["path"], folder / file["becomes"]
        if new.suffix == ".json":
            rename_in_index(old, new, pickled)
        else:
            CONVERTERS.get(file["path"], convert_file)(old, new)
        with new.open("rb") as content:
            digest = hashlib.file_digest(content, "sha256").hexdigest()
        source = {key: file[key] for key in ("path", "sha256", "blob") if key in file}
        size = new.stat().st_size
        written.append({"path": file["becomes"], "size": size, "sha256": digest, "from": source})
        print(f"converted {file['path']} to {file['becomes']}, {size:,} bytes", file=sys.stderr)
    for file in pickled:
        (folder / file["path"]).unlink()
    record = {"torch": torch.__version__, "files": written}
    (folder / RECORD).write_text(json.dumps(record, indent=1), encoding="utf-8")


def convert_file(old: Path, new: Path) -> None:
    """Write the tensors of a file that torch.save wrote as safetensors, each under its name."""
    import torch
    from safetensors.torch import save_file

    with old.open("rb") as content:  # torch before 1.6 wrote no zip, and torch maps no other file
        mapped = content.read(4) == b"PK\3\4"
    tensors = torch.load(old, map_location="cpu", weights_only=True, mmap=mapped)
    seen: set[int] = set()
    plain = {}
    for name, tensor in tensors.items():
        whole = tensor.detach().contiguous()
        place = whole.untyped_storage().data_ptr()
        # Names that share numbers get their own: which of them a model ties is known to it alone.
        plain[name] = whole.clone() if place in seen else whole
        seen.add(place)
    save_file(plain, new, metadata={"format": "pt"})


def rename_in_index(old: Path, new: Path, pickled: list[dict[str, Any]]) -> None:
    """Write an index of shards with the names of the converted files."""
    index = json.loads(old.read_text(encoding="utf-8"))
    names = {Path(file["path"]).name: Path(file["becomes"]).name for file in pickled}
    index["weight_map"] = {name: names[file] for name, file in index["weight_map"].items()}
    new.write_text(json.dumps(index), encoding="utf-8")


def converted(manifest: dict[str, Any], folder: Path) -> dict[str, Any]:
    """Return the manifest with the converted files in place of the pickled ones.

    Raises Unconverted if those were not converted, or others than module.yaml names.
    """
    try:
        record = json.loads((folder / RECORD).read_text(encoding="utf-8"))["files"]
        converted_from = [file["from"] for file in record]
    except (OSError, ValueError, KeyError, TypeError):  # missing, or not as `convert` writes it
        record, converted_from = [], []
    model = manifest["model"]
    pickled = [file for file in model["files"] if "becomes" in file]
    sources = [
        {key: file[key] for key in ("path", "sha256", "blob") if key in file} for file in pickled
    ]
    if converted_from != sources:
        raise Unconverted("the weights were not converted: python run_inference.py convert")
    files = [file for file in model["files"] if "becomes" not in file] + record
    return {**manifest, "model": {**model, "files": files}}
