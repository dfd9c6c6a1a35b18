"""Write the architectures that the pinned llama.cpp loads.

    python libs/models/scripts/llama_table.py

llama.cpp has no list of them to ask for, so that each name in question is tried: it refuses a file
that names an unknown architecture in other words than one that lacks the rest. Names in question
are those of the table so far, and the words beside them in the library itself.
"""

import json
import os
import re
import tempfile
from contextlib import suppress
from importlib import metadata
from pathlib import Path

import xllamacpp

from hub.gguf import write_gguf

FILE = Path(__file__).parents[1] / "models/llama_cpp.json"
WORD = re.compile(rb"(?<=\0)[a-z][a-z0-9._-]{1,24}(?=\0)")
# A word beside which the library keeps the names of its architectures, and the bytes around it.
NEAR, AROUND = b"\0starcoder2\0", 4096


def words() -> set[str]:
    """Return the words near a known name in the library's binary."""
    [path] = Path(xllamacpp.__file__).parent.glob("*.so")
    content = path.read_bytes()
    at = content.index(NEAR)
    return {word.decode() for word in WORD.findall(content[at - AROUND : at + AROUND])}


def is_known(architecture: str) -> bool:
    """Whether llama.cpp knows an architecture, by its message about a file that names no more."""
    reading, writing = os.pipe()
    kept = os.dup(2)
    os.dup2(writing, 2)
    try:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder, "model.gguf")
            write_gguf(path, {"general.architecture": architecture}, {})
            params = xllamacpp.CommonParams()
            params.model.path, params.n_ctx, params.fit_params = str(path), 64, False
            with suppress(RuntimeError):
                xllamacpp.Server(params)
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(writing)
    with os.fdopen(reading, "rb") as log:
        return b"unknown model architecture" not in log.read()


def table() -> dict[str, object]:
    """Return the table: the version of the library, and its architectures."""
    known = set(json.loads(FILE.read_text())["architectures"]) if FILE.exists() else set()
    tried = sorted(known | words())
    return {
        "xllamacpp": metadata.version("xllamacpp"),
        "architectures": [name for name in tried if is_known(name)],
    }


if __name__ == "__main__":
    FILE.write_text(json.dumps(table(), indent=1) + "\n")
