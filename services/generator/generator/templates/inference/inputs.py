"""Request parsing: environment variables, inputs, parameters."""

import base64
import binascii
import json
import math
import os
from typing import Any

# Max inputs of a request; one request is one job.
MAX_INPUTS = 4096
KEYS = "`inputs` and `parameters`"


class InvalidInput(ValueError):
    """Error for unusable inputs; the message says why."""


def read_inputs(manifest: dict[str, Any]) -> tuple[list[Any], dict[str, Any]]:
    """Return the inputs (at least one) and all parameters; None for one left to the model."""
    subject, *parameters = manifest["inputs"]
    request = read_request()
    if unknown := set(request) - {"inputs", "parameters"}:
        raise InvalidInput(f"request: unknown key {min(unknown)!r}; its keys are {KEYS}")
    submitted = request.get("parameters") or {}
    if not isinstance(submitted, dict):
        raise InvalidInput("parameters: must be an object")
    if unknown := set(submitted) - {parameter["name"] for parameter in parameters}:
        known = ", ".join(parameter["name"] for parameter in parameters)
        raise InvalidInput(
            f"parameters: unknown parameter {min(unknown)!r}; the module has {known}"
        )
    inputs = request.get("inputs", os.environ.get(subject["env"]) or None)
    if inputs is None:
        raise InvalidInput(f"{subject['name']}: is missing")
    inputs = inputs if isinstance(inputs, list) else [inputs]
    if not 0 < len(inputs) <= MAX_INPUTS:
        raise InvalidInput(f"inputs: give 1 to {MAX_INPUTS}")
    values = {
        parameter["name"]: read_parameter(
            parameter, submitted.get(parameter["name"], os.environ.get(parameter["env"]) or None)
        )
        for parameter in parameters
    }
    return inputs, values


def read_request() -> dict[str, Any]:
    encoded = os.environ.get("REQUEST_B64", "")
    if not encoded:
        return {}
    try:
        request = json.loads(decode(encoded))
    except (binascii.Error, ValueError, RecursionError):
        raise InvalidInput("request: must be base64 of JSON") from None
    if not isinstance(request, dict):
        raise InvalidInput("request: must be an object")
    return request


def decode(text: str) -> bytes:
    """Decode base64, with or without padding, in lines or the alphabet of URLs.

    The network drops inputs that contain `=`, and programs break what they encode into lines.
    """
    text = "".join(text.split()).rstrip("=").translate({ord("-"): "+", ord("_"): "/"})
    return base64.b64decode(text + "=" * (-len(text) % 4), validate=True)


def read_parameter(parameter: dict[str, Any], value: Any) -> Any:
    """Return a value of the parameter's type and within its bounds; text is converted."""
    name, kind = parameter["name"], parameter["type"]
    if value is None:
        return parameter.get("default")
    try:
        if kind == "boolean":
            value = {"true": True, "1": True, "false": False, "0": False}[str(value).lower()]
        elif kind == "integer":
            if isinstance(value, (bool, float)):
                raise ValueError
            value = int(value)
        elif kind == "number":
            value = float(value)
            if not math.isfinite(value):
                raise ValueError
        elif not isinstance(value, str):
            raise ValueError
    except (KeyError, TypeError, ValueError, OverflowError):
        raise InvalidInput(f"{name}: must be of type {kind}") from None
    low, high = parameter.get("minimum"), parameter.get("maximum")
    if (low is not None and value < low) or (high is not None and value > high):
        raise InvalidInput(f"{name}: must be between {low:g} and {high:g}")
    return value
