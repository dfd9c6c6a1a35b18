"""Inputs of several parts: an object's own fields take precedence over the parameters."""

from typing import Any

from generator.templates.inference.inputs import InvalidInput, read_parameter


def combine(
    manifest: dict[str, Any], inputs: list[Any], parameters: dict[str, Any]
) -> list[dict[str, Any]]:
    """Return each input's values by name: its own fields, else the parameters'."""
    subject, *others = manifest["inputs"]
    known = {other["name"]: other for other in others if other["name"] != "seed"}
    combined = []
    for value in inputs:
        own = dict(value) if isinstance(value, dict) else {subject["name"]: value}
        main = own.pop(subject["name"], None)
        if main is None:
            raise InvalidInput(f"inputs: an object lacks {subject['name']!r}")
        if unknown := set(own) - set(known):
            raise InvalidInput(f"inputs: unknown field {min(map(str, unknown))!r}")
        read = {name: read_parameter(known[name], item) for name, item in own.items()}
        combined.append({**parameters, **read, subject["name"]: main})
    return combined
