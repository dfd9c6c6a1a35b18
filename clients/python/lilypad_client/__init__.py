"""Client of the Lilypad Model Generator.

from lilypad_client import LilypadClient

client = LilypadClient(api_key="lmg_live_...", base_url="http://127.0.0.1:8080")
files = client.generate_module(model_url="https://huggingface.co/owner/name")
files.write_to("module")
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lilypad_client.client import AsyncLilypadClient, LilypadClient
    from lilypad_client.connection import RateLimit
    from lilypad_client.errors import (
        APIConnectionError,
        APIStatusError,
        APITimeoutError,
        ArchiveError,
        AuthenticationError,
        BenchmarkError,
        ConflictError,
        GenerationError,
        InternalError,
        InvalidModelError,
        InvalidRequestError,
        JobTimeoutError,
        LilypadError,
        MonitoringError,
        NotFoundError,
        PermissionDeniedError,
        RateLimitError,
        UnavailableError,
    )
    from lilypad_client.jobs import Job
    from lilypad_client.modules import Module
    from lilypad_client.resource import RawResponse

from lilypad_client.version import __version__

__all__ = [
    "APIConnectionError",
    "APIStatusError",
    "APITimeoutError",
    "ArchiveError",
    "AsyncLilypadClient",
    "AuthenticationError",
    "BenchmarkError",
    "ConflictError",
    "GenerationError",
    "InternalError",
    "InvalidModelError",
    "InvalidRequestError",
    "Job",
    "JobTimeoutError",
    "LilypadClient",
    "LilypadError",
    "Module",
    "MonitoringError",
    "NotFoundError",
    "PermissionDeniedError",
    "RateLimit",
    "RateLimitError",
    "RawResponse",
    "UnavailableError",
    "__version__",
]

# The module of each exported name other than the errors, loaded on first use, so that importing an
# error or printing the command line's help does not wait for the client.
_MODULES = {
    "AsyncLilypadClient": "client",
    "Job": "jobs",
    "LilypadClient": "client",
    "Module": "modules",
    "RateLimit": "connection",
    "RawResponse": "resource",
}


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f"{__name__}.{_MODULES.get(name, 'errors')}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
