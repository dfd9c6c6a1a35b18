"""Python client of the Lilypad Model Generator.

from lilypad_client import LilypadClient

client = LilypadClient(api_key="lmg_live_...", base_url="http://127.0.0.1:8080")
files = client.generate_module(model_url="https://huggingface.co/owner/name")
files.write_to("module")
"""

from lilypad_client.client import LilypadClient
from lilypad_client.errors import (
    APIConnectionError,
    APIStatusError,
    AuthenticationError,
    LilypadError,
    NotFoundError,
    PermissionDeniedError,
    RateLimitError,
    ServerError,
)
from lilypad_client.modules import Module

__all__ = [
    "APIConnectionError",
    "APIStatusError",
    "AuthenticationError",
    "LilypadClient",
    "LilypadError",
    "Module",
    "NotFoundError",
    "PermissionDeniedError",
    "RateLimitError",
    "ServerError",
]
