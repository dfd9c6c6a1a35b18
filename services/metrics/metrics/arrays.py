"""Encoding of numpy arrays as PostgreSQL's binary arrays."""

from typing import Any

import numpy as np
from numpy.typing import NDArray
from psycopg import AsyncConnection, pq
from psycopg.adapt import Buffer, Dumper, PyFormat

Ints = NDArray[np.int32]
# Microseconds since 2000, which is how PostgreSQL counts them.
Times = NDArray[np.int64]
Floats = NDArray[np.float64]

# What PostgreSQL calls the elements and their arrays (pg_type.oid), by numpy's
# type. An int64 is a time here: nothing else of that width is sent.
ELEMENTS = {"int32": (23, 1007), "int64": (1184, 1185), "float64": (701, 1022)}


class ArrayDumper(Dumper):
    format = pq.Format.BINARY

    def get_key(self, obj: Any, _: PyFormat) -> Any:
        return (np.ndarray, obj.dtype.name)

    def upgrade(self, obj: Any, _: PyFormat) -> Dumper:
        return DUMPERS[obj.dtype.name](np.ndarray)

    def dump(self, obj: NDArray[Any]) -> Buffer:
        element, _ = ELEMENTS[obj.dtype.name]
        # One dimension, no nulls, elements' type, their number, the first one's index.
        head = np.array([1, 0, element, len(obj), 1], ">i4").tobytes()
        width = obj.dtype.itemsize
        body = np.empty(len(obj), [("length", ">i4"), ("value", obj.dtype.newbyteorder(">"))])
        body["length"] = width
        body["value"] = obj
        return head + body.tobytes()


DUMPERS: dict[str, type[ArrayDumper]] = {
    name: type(f"{name}Dumper", (ArrayDumper,), {"oid": array})
    for name, (_, array) in ELEMENTS.items()
}


def accept_arrays(connection: AsyncConnection[Any]) -> None:
    connection.adapters.register_dumper(np.ndarray, ArrayDumper)
