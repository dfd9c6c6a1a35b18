"""Validation of manifests against the schemas of Kubernetes, KEDA and CloudNativePG."""

import difflib
import json
from pathlib import Path
from typing import Any

import jsonschema
import kubernetes_validate

VERSION = "1.35"
FOLDER = Path(__file__).parent
SCALED_JOB = json.loads((FOLDER / "scaledjob.schema.json").read_text())
# The fields that are used, as the operator's own definition has them.
CLUSTER = json.loads((FOLDER / "cluster.schema.json").read_text())


def find_fault(resource: dict[str, Any]) -> str | None:
    """Return what is wrong with a manifest, and where: an unknown or missing field, or a value."""
    try:
        _validate(resource)
    except jsonschema.ValidationError as error:
        name = f"{resource['kind']} {resource['metadata']['name']}"
        place = "".join(f"[{p}]" if isinstance(p, int) else f".{p}" for p in error.absolute_path)
        return f"{name}, {place.lstrip('.') or 'top level'}: {_describe(error)}"
    except kubernetes_validate.SchemaNotFoundError as error:
        return (
            f"{resource['kind']} {resource['metadata']['name']}: Kubernetes {VERSION} has no "
            f"{error.kind} of `{error.api_version}`; correct `kind` or `apiVersion`"
        )
    return None


def _validate(resource: dict[str, Any]) -> None:
    if resource["kind"] == "ScaledJob":
        jsonschema.validate(resource, SCALED_JOB)
        resource = {
            "apiVersion": "batch/v1",
            "kind": "Job",
            "metadata": resource["metadata"],
            "spec": resource["spec"]["jobTargetRef"],
        }
    if resource["kind"] == "Cluster":
        jsonschema.validate(resource, CLUSTER)
    else:
        kubernetes_validate.validate(resource, VERSION, strict=True)


def _describe(error: jsonschema.ValidationError) -> str:
    schema: Any = error.schema
    if error.validator != "additionalProperties":
        return error.message
    known = [*schema.get("properties", {})]
    unknown = sorted({*error.instance} - {*known})
    told = []
    for field in unknown:
        close = difflib.get_close_matches(field, known, 1)
        hint = f"did you mean `{close[0]}`?" if close else f"known are {', '.join(sorted(known))}"
        told.append(f"unknown field `{field}`; {hint}")
    return "; ".join(told)
