"""Reader of a logistic regression that scikit-learn pickled, which runs nothing of the pickle.

A pickle is a program: `joblib.load` calls whatever it names. Here its opcodes are only followed, on
plain values; the few names that a logistic regression needs are recognised, and anything else is
rejected. joblib writes the numbers of an array into the pickle, after the opcode that describes it.
"""

import io
import math
import pickletools
from typing import Any

# About 200 are needed.
MAX_OPCODES = 5_000
MAX_CLASSES, MAX_CLASS_CHARACTERS = 10_000, 256
# The names that the pickle may have, by what they are.
MODELS = {
    ("sklearn.linear_model._logistic", "LogisticRegression"),
    ("sklearn.linear_model.logistic", "LogisticRegression"),
}
ARRAYS = {("joblib.numpy_pickle", "NumpyArrayWrapper")}
DTYPES = {("numpy", "dtype")}
SCALARS = {(f"{core}.multiarray", "scalar") for core in ("numpy.core", "numpy._core")}
OTHERS = {("numpy", "ndarray"), ("_codecs", "encode")}
KNOWN = MODELS | ARRAYS | DTYPES | SCALARS | OTHERS
# Values that the opcodes of constants push.
CONSTANTS: dict[str, Any] = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False, "EMPTY_TUPLE": ()}
VALUES = frozenset(
    ("BININT", "BININT1", "BININT2", "LONG1", "BINFLOAT", "BINUNICODE", "SHORT_BINUNICODE")
) | {"BINBYTES", "SHORT_BINBYTES"}
TUPLES = {"TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}


class UnreadableHead(Exception):
    """A pickle of something other than a plain logistic regression."""


class Built:
    """An object that a pickle builds: its class's name, and its state."""

    def __init__(self, name: tuple[str, str], arguments: Any) -> None:
        self.name = name
        self.arguments = arguments
        self.state: dict[str, Any] = {}


class Array:
    """Numbers or texts of one dtype: `<f4`, `<f8`, `<i8` or `<U7`, with their bytes."""

    def __init__(self, dtype: str, shape: tuple[int, ...], order: str, data: bytes) -> None:
        self.dtype = dtype
        self.shape = shape
        self.order = order
        self.data = data


MARK = object()


def read_head(content: bytes) -> dict[str, Any]:
    """Return `classes` (texts or numbers), and the arrays `coef` and `intercept`.

    Raises UnreadableHead unless the pickle is a fitted LogisticRegression of scikit-learn and
    nothing else.
    """
    try:
        return head_of(follow(content))
    except UnreadableHead:
        raise
    except Exception:  # noqa: BLE001  (whatever a broken pickle causes)
        raise UnreadableHead("it cannot be read") from None


def head_of(built: Any) -> dict[str, Any]:
    if not isinstance(built, Built) or built.name not in MODELS:
        raise UnreadableHead("it is not a LogisticRegression")
    coef, intercept, classes = (
        built.state.get(name) for name in ("coef_", "intercept_", "classes_")
    )
    if not all(isinstance(array, Array) for array in (coef, intercept, classes)):
        raise UnreadableHead("it was not fitted")
    assert isinstance(coef, Array)
    assert isinstance(intercept, Array)
    assert isinstance(classes, Array)
    names = classes_of(classes)
    rows = 1 if len(names) == 2 else len(names)
    floats = all(array.dtype in ("<f4", "<f8") for array in (coef, intercept))
    fits = len(coef.shape) == 2 and coef.shape[0] == rows and intercept.shape == (rows,)
    if not floats or not fits or coef.shape[1] < 1:
        raise UnreadableHead("its numbers do not fit its classes")
    if not is_usual(built.state, len(names)):
        raise UnreadableHead("it gives probabilities by another rule than the default")
    return {"classes": names, "coef": coef, "intercept": intercept}


def is_usual(state: dict[str, Any], classes: int) -> bool:
    """Return whether all versions of scikit-learn compute the same probabilities."""
    rule = state.get("multi_class", "auto")
    if classes == 2:  # some versions double the score of two classes for "multinomial"
        return rule in ("auto", "deprecated", "ovr", "warn")
    return rule in ("auto", "deprecated", "multinomial") and state.get("solver") != "liblinear"


def classes_of(array: Array) -> list[Any]:
    kind, width = array.dtype[1], int(array.dtype[2:])
    width *= 4 if kind == "U" else 1
    count = array.shape[0] if len(array.shape) == 1 else 0
    is_number = kind in "iu" and width in (1, 2, 4, 8)
    if not 2 <= count <= MAX_CLASSES or not (is_number or kind == "U"):
        raise UnreadableHead("its classes are neither numbers nor texts")
    parts = [array.data[place : place + width] for place in range(0, count * width, width)]
    if kind == "U":
        names = [part.decode("utf-32-le").rstrip("\0") for part in parts]
        if max(map(len, names)) > MAX_CLASS_CHARACTERS:
            raise UnreadableHead("a name of a class is too long")
        return names
    return [int.from_bytes(part, "little", signed=kind == "i") for part in parts]


def follow(content: bytes) -> Any:
    """Interpret a pickle's opcodes; return the object that it builds."""
    file = io.BytesIO(content)
    stack: list[Any] = []
    memo: dict[int, Any] = {}
    for count, (opcode, argument, _) in enumerate(pickletools.genops(file)):
        if count > MAX_OPCODES:
            raise UnreadableHead("it has too many opcodes")
        if opcode.name == "STOP":
            break
        step(opcode.name, argument, stack, memo)
        top = stack[-1] if stack else None
        if opcode.name == "BUILD" and isinstance(top, Built) and top.name in ARRAYS:
            stack[-1] = read_array(top.state, file)
    (built,) = stack
    return built


def step(name: str, argument: Any, stack: list[Any], memo: dict[int, Any]) -> None:  # noqa: C901, PLR0912  (one case per opcode)
    if name in CONSTANTS:
        stack.append(CONSTANTS[name])
    elif name in VALUES:
        stack.append(argument)
    elif name in ("PROTO", "FRAME"):
        pass
    elif name == "MARK":
        stack.append(MARK)
    elif name == "EMPTY_DICT":
        stack.append({})
    elif name in ("MEMOIZE", "BINPUT", "LONG_BINPUT"):
        memo[len(memo) if argument is None else argument] = stack[-1]
    elif name in ("BINGET", "LONG_BINGET"):
        stack.append(memo[argument])
    elif name == "GLOBAL":
        stack.append(Built(known(*argument.split(" ", 1)), None))
    elif name == "STACK_GLOBAL":
        inner, module = stack.pop(), stack.pop()
        stack.append(Built(known(module, inner), None))
    elif name in ("NEWOBJ", "REDUCE"):
        arguments, kind = stack.pop(), stack.pop()
        stack.append(Built(kind.name, arguments))
    elif name in TUPLES:
        stack.append(tuple(stack.pop() for _ in range(TUPLES[name]))[::-1])
    elif name == "TUPLE":
        stack.append(tuple(pop_mark(stack)))
    elif name == "SETITEM":
        fill(stack, [stack.pop() for _ in range(2)][::-1])
    elif name == "SETITEMS":
        fill(stack, pop_mark(stack))
    elif name == "BUILD":
        state = stack.pop()
        is_dtype = stack[-1].name in DTYPES
        stack[-1].state = {"order": state[1], "fields": state[2:5]} if is_dtype else state
    else:
        raise UnreadableHead("it has an opcode that a logistic regression does not need")


def known(module: Any, name: Any) -> tuple[str, str]:
    # Only texts: a tuple may have itself as its parts, as often as takes forever to look up.
    texts = isinstance(module, str) and isinstance(name, str)
    if not texts or (module, name) not in KNOWN:
        raise UnreadableHead("it names something else than a logistic regression's parts")
    return module, name


def pop_mark(stack: list[Any]) -> list[Any]:
    items: list[Any] = []
    while (item := stack.pop()) is not MARK:
        items.append(item)
    return items[::-1]


def fill(stack: list[Any], items: list[Any]) -> None:
    target = stack[-1]
    for key, value in zip(items[::2], items[1::2], strict=True):
        if type(target) is not dict or not isinstance(key, (str, int)):
            raise UnreadableHead("it has more than a logistic regression")
        target[key] = value


def read_array(state: dict[str, Any], file: io.BytesIO) -> Array:
    """Read the numbers that follow the description of an array."""
    dtype = dtype_of(state["dtype"])
    shape = state["shape"]
    if not isinstance(shape, tuple) or not all(type(n) is int and 0 <= n < 2**31 for n in shape):
        raise UnreadableHead("it has an array of an impossible shape")
    if state.get("numpy_array_alignment_bytes") is not None:
        file.read(file.read(1)[0])  # by which the numbers are aligned
    size = math.prod(shape) * int(dtype[2:]) * (4 if dtype[1] == "U" else 1)
    data = file.read(min(size, file.getbuffer().nbytes))
    if len(data) != size:
        raise UnreadableHead("it ends within its numbers")
    return Array(dtype, shape, "F" if state["order"] == "F" else "C", data)


def dtype_of(built: Built) -> str:
    name = built.arguments[0]
    plain = isinstance(name, str) and name[:1] in "fiuU" and name[1:].isdecimal()
    if built.name not in DTYPES or not plain or built.state.get("order", "<") not in ("<", "|"):
        raise UnreadableHead("it has an array of other values than numbers and texts")
    if not name.isascii() or built.state.get("fields") not in (None, (None, None, None)):
        raise UnreadableHead("it has an array of other values than numbers and texts")
    return f"<{name}"
