"""Validation of a module's run_inference.py: its imports and its calls."""

import ast
from collections.abc import Iterator
from functools import lru_cache

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

# Standard modules that a script may import: none that starts programs or opens connections.
STANDARD = frozenset(
    ("base64", "binascii", "collections", "csv", "hashlib", "inspect", "io", "json", "math", "os")
) | {"pathlib", "pickletools", "random", "shutil", "sys", "tempfile", "time", "typing", "wave"}
# Packages whose module has a different name.
PACKAGES = {"PIL": "pillow", "yaml": "pyyaml"}
# Functions that run text as code, or start a program.
FORBIDDEN = frozenset(
    ("__import__", "compile", "eval", "exec", "execl", "execv", "popen", "spawnl", "spawnv")
) | {"system"}
ENTRIES = frozenset(("answer", "load", "main", "run"))


def check(text: str, requirements: str) -> str:
    """Check the script and summarise it. Raises ValueError or SyntaxError if it is not safe."""
    pins = {canonicalize_name(Requirement(line).name) for line in requirements.splitlines()}
    functions, packages = _read(text)
    if missing := sorted(packages - pins):
        raise ValueError(f"it imports {missing[0]}, which requirements.txt does not install")
    return f"Python, {functions} functions; each package that it imports is installed"


@lru_cache(maxsize=64)
def _read(text: str) -> tuple[int, frozenset[str]]:
    """Return the number of functions, and the canonical names of the imported packages."""
    tree = ast.parse(text)
    functions = [node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)]
    if absent := ENTRIES - {*functions}:
        raise ValueError(f"it has no function {min(absent)}")
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            _check_call(node)
    modules = set(_imported(tree)) - STANDARD
    return len(functions), frozenset(canonicalize_name(PACKAGES.get(m, m)) for m in modules)


def _check_call(call: ast.Call) -> None:
    called = call.func
    plain = called.id if isinstance(called, ast.Name) else None
    method = called.attr if isinstance(called, ast.Attribute) else None
    # `model.eval()` and `model.compile()` are torch's, and run no text.
    if plain in FORBIDDEN or (method in FORBIDDEN and method not in ("compile", "eval")):
        raise ValueError(f"it calls {plain or method}")
    if method == "load" and isinstance(called, ast.Attribute) and _names(called.value, "torch"):
        safely = [one for one in call.keywords if one.arg == "weights_only"]
        if not safely or not _is_constant(safely[0].value, True):
            raise ValueError("it loads a pickle that may run code")
    for keyword in call.keywords:
        if keyword.arg == "trust_remote_code" and not _is_constant(keyword.value, False):
            raise ValueError("it trusts code of the model's author")


def _names(node: ast.expr, name: str) -> bool:
    return isinstance(node, ast.Name) and node.id == name


def _is_constant(node: ast.expr, value: object) -> bool:
    return isinstance(node, ast.Constant) and node.value is value


def _imported(tree: ast.Module) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield (node.module or "").partition(".")[0]
