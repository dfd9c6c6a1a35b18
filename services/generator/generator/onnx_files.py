"""Choice of the ONNX file that a module runs.

The rule: `onnx/model.onnx`, then `model.onnx`; `options.file` names any other, such as a quantized
one. Files that an ONNX file keeps its numbers in come with it, by the names that exporters give
them.
"""

import re

from common.errors import InvalidRequest
from generator.description import Description, Sibling
from generator.gguf_files import MAX_SHOWN, PATH

ENDING = ".onnx"
CHOSEN = ("onnx/model.onnx", "model.onnx")
# The rest of the names of files with an ONNX file's numbers: optimum's, and torch's.
DATA = re.compile(r"(?:_data(?:_[0-9]{1,3})?|\.data)")
# The same, after the name of its ONNX file.
OWNED = re.compile(rf"(?P<graph>.+\.onnx){DATA.pattern}")
NAMES = (
    "the names of ONNX files must have letters, digits, dots, hyphens and underscores only, be at "
    f"most 3 folders deep and end in {ENDING}"
)
# More files than any model has.
MAX_DATA = 64
# Parts of names of files whose weights are stored in fewer bits, and in half precision.
QUANTIZED = re.compile(r"quant|int8|q4|q8|bnb4|int4|uint8", re.IGNORECASE)
HALF = re.compile(r"fp16|float16|_f16", re.IGNORECASE)


def is_named(path: str) -> bool:
    """Return whether a path is meant as that of an ONNX file, or of a file of its numbers."""
    return path.lower().endswith(ENDING) or OWNED.fullmatch(path) is not None


def choose(description: Description, named: str | None) -> tuple[Sibling, ...]:
    """Return the ONNX file to run and the files of its weights; nothing if the rule finds none.

    Raises InvalidRequest if `named` is not an ONNX file of the repository.
    """
    siblings = {one.rfilename: one for one in description.siblings if PATH.fullmatch(one.rfilename)}
    usable = sorted(path for path in siblings if path.endswith(ENDING))
    if named is not None and named not in usable:
        raise _unknown(named, [one.rfilename for one in description.siblings], usable)
    path = named or next((path for path in CHOSEN if path in usable), None)
    if path is None:
        return ()
    data = [one for one in siblings if is_data(one, path)]
    return tuple(siblings[one] for one in (path, *sorted(data)[:MAX_DATA]))


def is_data(path: str, graph: str) -> bool:
    """Return whether a file's name is that of a weights file of the ONNX file `graph`."""
    return path.startswith(graph) and DATA.fullmatch(path[len(graph) :]) is not None


def stored(path: str) -> str:
    """Return the dtype of most weights of a file, by its name, as safetensors names it."""
    name = path.rpartition("/")[2]
    if QUANTIZED.search(name):
        return "U8"
    return "F16" if HALF.search(name) else "F32"


def _unknown(named: str, paths: list[str], usable: list[str]) -> InvalidRequest:
    owner = OWNED.fullmatch(named)
    if owner and owner["graph"] in usable:
        fault = f"{named} has the numbers of an ONNX file; name {owner['graph']}"
    elif not owner and named in paths:
        fault = f"{NAMES}: that of {named} has not"
    elif usable:
        more = len(usable) - MAX_SHOWN
        fault = f"the repository has no such ONNX file; it has {', '.join(usable[:MAX_SHOWN])}"
        fault += f" and {more} more" if more > 0 else ""
    else:
        fault = "the repository has no ONNX files; leave the option out"
    return InvalidRequest(
        f"options.file: {fault}", fields=[{"path": "options.file", "message": fault}]
    )
