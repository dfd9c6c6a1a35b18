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
        """Start without rows; `kind` names them in log lines."""
        self.kind = kind
        self._ids: set[Hashable] = set()

    @property
    def ids(self) -> list[Any]:
        """Ids of the unreadable rows, for queries of this process to exclude."""
        return list(self._ids)

    def read(self, id: Hashable, parse: Callable[[], Found]) -> Found | None:
        """Return the parsed row; log it and return None if this version cannot read it."""
        try:
            return parse()
        except Exception as error:  # noqa: BLE001  (an unknown layout can raise anything)
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
