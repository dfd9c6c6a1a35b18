"""Rows of a database that this version of a service cannot read."""

from collections.abc import Callable, Hashable
from typing import Any, TypeVar

import structlog
from pydantic import ValidationError

log = structlog.get_logger()

Found = TypeVar("Found")


class Unreadable:
    """Rows that only another version can read, set aside so that a sweep continues without them."""

    def __init__(self, kind: str) -> None:
        """`kind` names the rows in log lines."""
        self.kind = kind
        self._ids: set[Hashable] = set()

    @property
    def ids(self) -> list[Any]:
        """Rows that need not be selected again: they cannot be read until this process ends."""
        return list(self._ids)

    def read(self, id: Hashable, parse: Callable[[], Found]) -> Found | None:
        """Return the parsed row; None, once it is logged, if this version cannot read it."""
        try:
            return parse()
        except (ValidationError, KeyError, TypeError) as error:
            if id not in self._ids:
                self._ids.add(id)
                reason = _reason(error)
                log.error("row set aside: it cannot be read", kind=self.kind, id=id, reason=reason)  # noqa: TRY400  (it says all)
            return None


def _reason(error: Exception) -> str:
    """Return the reason, without the row's values."""
    if not isinstance(error, ValidationError):
        return repr(error)
    [fault, *_] = error.errors(include_input=False, include_url=False)
    return f"{'.'.join(map(str, fault['loc']))}: {fault['msg']}"
