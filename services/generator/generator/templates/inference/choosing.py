"""Choice of the next token."""

from typing import Any


def choice(temperature: float | None) -> dict[str, Any]:
    """Return arguments of `generate`; none where the model's generation_config.json decides."""
    if temperature is None:
        return {}
    return {"do_sample": True, "temperature": temperature} if temperature else {"do_sample": False}
