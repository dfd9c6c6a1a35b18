"""Choice of the GGUF file that a module runs, of a repository with one model in many packings.

The rule: the packing that comes first in `PREFERRED`, else the smallest file; of several files of
one packing the one with the shortest path, then the first by name. Only models that are whole
count, judged by their files' names; `options.file` overrides all that.
"""

import re
from collections.abc import Container, Iterable, Sequence

from common.errors import InvalidRequest
from generator.description import Description, Sibling
from generator.reasons import refuse
from models.gguf import PREFERRED

ENDING = ".gguf"
# Paths that module.yaml may hold; others are not shown either, since an owner may write anything.
PATH = re.compile(r"(?:[A-Za-z0-9][A-Za-z0-9._-]{0,127}/){0,3}[A-Za-z0-9][A-Za-z0-9._-]{0,127}")
# A file of several: llama.cpp opens the first and finds the others by these names.
SPLIT = re.compile(r"(?P<stem>.+)-(?P<number>[0-9]{5})-of-(?P<count>[0-9]{5})\.gguf")
# A packing's name within a file's, with what follows it (Q4_K_M_v2).
PACKING = re.compile(
    r"(?<![A-Za-z0-9])(?:I?Q\d(?:_[0-9A-Z]+)*|TQ\d_\d|MXFP4(?:_MOE)?|BF16|F16|FP16|F32|FP32)"
    r"(?![A-Za-z0-9])",
    re.IGNORECASE,
)
# Files that belong to a model but are none: projectors of images, draft models, statistics of the
# packing, adapters and vocabularies.
PARTS = re.compile(
    r"mmproj|imatrix|(?<![a-z])(?:draft|mtp|lora|vocab|adapter)(?![a-z])", re.IGNORECASE
)
# The largest models are in 40 files.
MAX_SPLITS = 64
RULE = (
    "the names of GGUF files must have letters, digits, dots, hyphens and underscores only, and "
    f"end in {ENDING}"
)
NAMES = f"{RULE}: the repository's have not"
# Files that a message lists.
MAX_SHOWN = 12


def choose(description: Description, named: str | None) -> tuple[Sibling, ...]:
    """Return the file to run, as its parts in order.

    Raises:
        InvalidRequest: `named` is not a GGUF file of the repository.
        ModelRefused: the repository has no such file that is whole.
    """
    siblings = {one.rfilename: one for one in description.siblings}
    usable = sorted(filter(_is_usable, siblings))
    firsts = [path for path in usable if not PARTS.search(_last(path))]
    odd = any(path.lower().endswith(ENDING) and not _is_named_well(path) for path in siblings)
    if named is not None and named not in usable:
        raise _unknown(named, siblings, firsts or usable, odd)
    if named is None and not firsts:
        if odd:
            raise refuse(NAMES, "incomplete", "a repository that has them under such names")
        raise refuse(
            "the repository has parts of GGUF models only, such as a projector of images",
            "incomplete",
            "the repository that has the model itself, or options.file with a file that is one",
        )
    whole = [path for path in firsts if _is_whole(path, siblings)]
    first = named or min(whole or firsts, key=lambda path: _rank(path, siblings))
    paths = _parts(first)
    if not set(paths) <= set(siblings):
        raise refuse(
            "some parts of the GGUF file are missing",
            "incomplete",
            "a revision that has all of them",
        )
    return tuple(siblings[path] for path in paths)


def packing_of(path: str) -> str | None:
    """Return the packing that a file's name says, in capitals; None if it says none.

    It is the longest that is known; a number at the end (Q4_0_4_4) makes it another packing.
    """
    found = PACKING.findall(_last(path))
    if not found:
        return None
    said = str(found[-1]).upper().replace("FP16", "F16").replace("FP32", "F32")
    parts = said.split("_")
    while parts and "_".join(parts) not in PREFERRED and not parts[-1].isdigit():
        parts.pop()
    known = "_".join(parts)
    return known if known in PREFERRED else said


def _rank(path: str, siblings: dict[str, Sibling]) -> tuple[int, int, int, str]:
    packing = packing_of(path)
    if packing in PREFERRED:
        return PREFERRED.index(packing), 0, len(path), path
    return (
        len(PREFERRED),
        _size(siblings[part] for part in _parts(path) if part in siblings),
        0,
        path,
    )


def _size(siblings: Iterable[Sibling]) -> int:
    return sum(one.lfs.size if one.lfs else one.size or 0 for one in siblings)


def _is_named_well(path: str) -> bool:
    return path.endswith(ENDING) and PATH.fullmatch(path) is not None


def _is_usable(path: str) -> bool:
    """Return whether a path is that of a GGUF file, or of the first of its parts."""
    split = SPLIT.fullmatch(path)
    return _is_named_well(path) and (split is None or int(split["number"]) == 1)


def _is_whole(first: str, siblings: Container[str]) -> bool:
    split = SPLIT.fullmatch(first)
    few = split is None or 1 <= int(split["count"]) <= MAX_SPLITS
    return few and all(part in siblings for part in _parts(first))


def _parts(first: str) -> list[str]:
    """Return the paths of a file's parts."""
    split = SPLIT.fullmatch(first)
    if split is None:
        return [first]
    count = int(split["count"])
    if not 1 <= count <= MAX_SPLITS:
        raise refuse(
            f"the GGUF file's name says that it is in {count} parts; 1 to {MAX_SPLITS} are taken",
            "weights",
            "options.file with another file of the model",
        )
    return [f"{split['stem']}-{n:05}-of-{count:05}{ENDING}" for n in range(1, count + 1)]


def _last(path: str) -> str:
    return path.rpartition("/")[2]


def _unknown(
    named: str, siblings: Container[str], firsts: Sequence[str], odd: bool
) -> InvalidRequest:
    if not named.lower().endswith(ENDING) and not firsts:
        fault = (
            "the option selects a GGUF or an ONNX file, whose name ends in .gguf or .onnx; leave "
            "the option out"
        )
    elif named in siblings and named.lower().endswith(ENDING) and not _is_named_well(named):
        fault = f"{RULE}: that of {named} has not"
    elif not firsts and odd:
        fault = NAMES
    elif not firsts:
        fault = "the repository has no GGUF files; leave the option out"
    else:
        shown = ", ".join(firsts[:MAX_SHOWN])
        more = len(firsts) - MAX_SHOWN
        fault = f"the repository has no such GGUF file; it has {shown}"
        fault += f" and {more} more" if more > 0 else ""
    return InvalidRequest(
        f"options.file: {fault}", fields=[{"path": "options.file", "message": fault}]
    )
